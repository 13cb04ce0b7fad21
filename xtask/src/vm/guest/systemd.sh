#!/bin/bash
# A gateway under a real systemd: the package is installed, run, killed, hung, upgraded and removed
# while a client sends without pause, and lines for the host begin with "vm: ".

checks=0
failed=0
phase=start
config=/etc/breakout365/config.toml
pins=/sys/fs/bpf/breakout365
unit=breakout365.service

say() {
    echo "vm: $*"
}

# NAME COMMAND...: whether the command succeeds. What it printed is one line.
check() {
    name=$1
    shift
    checks=$((checks + 1))
    if said=$("$@" 2>&1); then
        say "ok $phase: $name"
    else
        failed=$((failed + 1))
        say "FAILED $phase: $name:" $said
        return 1
    fi
}

finish() {
    if [ $failed != 0 ]; then
        journalctl --no-pager --lines=60 --unit $unit
    fi
    say "end $checks checks, $failed failed"
    systemctl poweroff --force --force
}

not() {
    ! "$@"
}

is() {
    echo "$1, and not $2"
    [ "$1" = "$2" ]
}

# COMMAND...: whether it succeeds within a minute.
soon() {
    local end=$((SECONDS + 60))
    while [ $SECONDS -lt $end ]; do
        "$@" >/dev/null 2>&1 && return
        sleep 0.5
    done
    "$@"
}

property() {
    systemctl show --value --property "$1" $unit
}

has() {
    is "$(property "$1")" "$2"
}

pid() {
    property MainPID
}

# Packets that came in, with and without the mark.
count() {
    nft list counter inet watch "$1" | sed -n 's/.*packets \([0-9]*\) .*/\1/p'
}

marks() {
    local before
    before=$(count direct)
    sleep 1
    [ "$(count direct)" -gt "$before" ]
}

# No packet went unmarked since the last call of `from_here`.
from_here() {
    unmarked=$(count none)
}

without_gap() {
    marks && is "$(count none)" "$unmarked"
}

capabilities() {
    grep -E 'Cap(Eff|Prm|Bnd|Amb):' "/proc/$(pid)/status"
    # CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39.
    is "$(sed -n 's/Cap\(Eff\|Prm\|Bnd\|Amb\):\t//p' "/proc/$(pid)/status" | sort -u)" 000000c000001000
}

user_of() {
    ps -o user:32= -p "$1"
}

egress() {
    ip rule show | grep -q '^365:' && ip rule show | grep -q '^366:' &&
        nft list table inet breakout365
}

another_pid() {
    now=$(pid)
    [ "$now" != 0 ] && [ "$now" != "$old" ] && has ActiveState active
}

# The client, and what is behind either way: whoever answers there says which way it is.
network() {
    echo 1 >/proc/sys/net/ipv4/ip_forward
    for name in client far inspector; do
        ip netns add $name
        ip -n $name link set lo up
    done
    # NAMESPACE OURS THEIRS ADDRESS ITS
    while read -r name ours theirs address its; do
        ip link add "$ours" type veth peer name "$theirs" netns "$name"
        ip address add "$address/24" dev "$ours"
        ip link set "$ours" up
        ip -n "$name" address add "$its/24" dev "$theirs"
        ip -n "$name" link set "$theirs" up
        ip -n "$name" route add default via "$address"
    done <<END
client lan0 eth0 192.0.2.1 192.0.2.2
far wan0 wan1 198.51.100.2 198.51.100.1
inspector isp0 isp1 203.0.113.2 203.0.113.1
END
    ip route add default via 203.0.113.1
    for name in far inspector; do
        for address in 40.96.0.1 52.112.0.1 9.9.9.9; do
            ip -n $name address add $address/32 dev lo
        done
    done
    ip netns exec inspector perl /packages/server.pl inspected &
    far_side
    # Before conntrack, and only what the client sends without pause.
    nft -f - <<END
table inet watch {
    counter direct { }
    counter none { }
    chain seen {
        type filter hook prerouting priority -310
        ip saddr 192.0.2.2 udp dport 443 meta mark & 0x01000000 != 0 counter name direct
        ip saddr 192.0.2.2 udp dport 443 meta mark & 0x01000000 == 0 counter name none
    }
}
END
    ip netns exec client bash -c '
        exec 3<>/dev/udp/40.96.0.1/443
        while :; do echo packet >&3; sleep 0.02; done' >/dev/null 2>&1 &
}

far_side() {
    ip netns exec far perl /packages/server.pl direct &
    far=$!
}

# SETTING...: adds to the service what a site would.
drop_in() {
    mkdir -p /run/systemd/system/$unit.d
    printf '%s\n' '[Service]' "$@" >/run/systemd/system/$unit.d/trial.conf
    systemctl daemon-reload
}

no_drop_in() {
    rm -r /run/systemd/system/$unit.d
    systemctl daemon-reload
}

configure() {
    cat >$config <<EOF
version = 1
[[interface]]
name = "lan0"
[egress]
interface = "wan0"
gateway4 = "198.51.100.1"
$1
EOF
}

say "kernel $(uname -r)"
network

phase=installed
check "it installs" dpkg --install /packages/old.deb || finish
check "it is not started by itself" has ActiveState inactive
check "the configuration is there" test -s $config
check "both users are there" getent passwd breakout365 breakout365-exporter
check "the shipped configuration is understood" breakout365 policy show --config $config
sed -i 's/^name = "lan0"/name = "absent0"/' $config
check "a start without the interface fails" not systemctl start $unit
systemctl stop $unit
check "nothing is marked" is "$(count direct)" 0
sed -i 's/^name = "absent0"/name = "lan0"/' $config
check "the shipped configuration serves once the interface is named" systemctl start $unit
check "it marks" marks
systemctl stop $unit
check "and is taken back by hand" breakout365 down

phase=started
configure ""
check "it starts" systemctl enable --now $unit || finish
check "it is ready only when it has published" breakout365 status
check "status says what serves" bash -c "systemctl status $unit | grep 'generation 1, '"
check "it marks" marks
check "the way out is there" egress
check "it has three capabilities" capabilities
check "it is not root" is "$(user_of "$(pid)")" breakout365
check "the pins are its own" is "$(stat -c '%U %a' $pins)" "breakout365 700"
check "only root and its group may command it" is \
    "$(stat -c '%G %a' /run/breakout365/control.sock)" "breakout365 660"
check "it sees no other part of the BPF file system" is \
    "$(nsenter --mount --target "$(pid)" ls /sys/fs/bpf)" breakout365

phase=reload
configure 'masquerade = true'
from_here
check "it reloads" systemctl reload $unit
check "the new configuration serves" bash -c "breakout365 status --json | grep '\"generation\": *2'"
echo nonsense >>$config
check "a bad configuration fails the reload" not systemctl reload $unit
check "what served goes on" has ActiveState active
check "no packet went unmarked" without_gap
configure 'masquerade = true'

phase=killed
old=$(pid)
from_here
kill -9 "$old"
check "it is started again" soon another_pid
check "no packet went unmarked" without_gap

phase=restart
old=$(pid)
from_here
check "it restarts" systemctl restart $unit
check "it is another process" another_pid
check "no packet went unmarked" without_gap

phase=refused
echo nonsense >>$config
from_here
check "a restart with a bad configuration fails" not systemctl restart $unit
sleep 3
check "it is not tried again" has ActiveState failed
check "what was published marks on meanwhile" without_gap
configure 'masquerade = true'
check "mended, it starts" systemctl start $unit

phase=watchdog
drop_in WatchdogSec=8s
systemctl restart $unit
sleep 12
check "it is left alone while it works" has NRestarts 0
old=$(pid)
from_here
kill -STOP "$old"
check "it is started again when it hangs" soon another_pid
check "no packet went unmarked" without_gap
no_drop_in

phase=upgrade
old=$(pid)
from_here
check "it upgrades" dpkg --install --force-confold /packages/new.deb
check "the new one runs" soon another_pid
check "it is the new version" is \
    "$(dpkg-query --show --showformat='${Version}' breakout365)" "$(cat /packages/new.version)"
check "the operator's configuration stays" grep masquerade $config
check "no packet went unmarked" without_gap

phase=switch
check "off" breakout365 off
check "a restart leaves it off" systemctl restart $unit
before=$(count direct)
sleep 1
check "nothing is marked" is "$(count direct)" "$before"
check "on" breakout365 on
check "it marks" marks

. /packages/operator.sh
. /packages/links.sh

phase=stopped
from_here
check "it stops" systemctl stop $unit
check "what is published marks on" without_gap
configure 'masquerade = true'
sed -i '1a on-stop = "detach"' $config
check "it starts again" systemctl start $unit
check "it stops and takes back" systemctl stop $unit
check "nothing is pinned" not ls $pins/current
sed -i '/on-stop/d' $config
check "and starts again" systemctl start $unit
check "it marks" soon marks

phase=removed
check "it is removed" dpkg --remove breakout365
check "nothing runs" not pgrep -x breakout365
check "nothing is pinned" not test -e $pins
check "no rule is left" not grep -E '^36[56]:' <(ip rule show)
check "no table is left" not nft list table inet breakout365
check "no socket is left" not test -e /run/breakout365
before=$(count direct)
sleep 1
check "nothing is marked" is "$(count direct)" "$before"
check "configuration and state stay" test -s $config -a -d /var/lib/breakout365

phase=purged
check "it is purged" dpkg --purge breakout365
check "no state is left" not test -e /var/lib/breakout365
check "no configuration is left" not test -e /etc/breakout365
check "no unit is left" not systemctl cat $unit

finish
