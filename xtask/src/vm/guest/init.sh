#!/bin/busybox sh
# All that runs under another kernel: a gateway in namespaces, breakout365 on it through every kind
# of change, and lines for the host, which begin with "vm: ". The host says in $tc how tc is to be
# attached here.

export PATH=/bin
checks=0
failed=0
config=/etc/breakout365/config.toml
log=/tmp/log

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
        say "FAILED $phase: $name: "$said
        return 1
    fi
}

finish() {
    if [ $failed != 0 ]; then
        echo "log of the daemon:"
        cat $log
    fi
    say "end $checks checks, $failed failed"
    poweroff -f
}

# busybox would take its own.
ip() {
    /bin/ip "$@"
}

not() {
    ! "$@"
}

silent() {
    printed=$("$@" 2>&1)
    echo "$printed"
    [ -z "$printed" ]
}

start() {
    touch $log
    RUST_LOG=info,gateway_user::daemon::hooks=debug breakout365 run >>$log 2>&1 &
    daemon=$!
}

# PHASE FILE: takes the configuration into use.
take() {
    phase=$1
    generation=$((generation + 1))
    cp "/etc/$2" $config
    if [ "$generation" = 1 ]; then start; else kill -HUP "$daemon"; fi
    # Without it nothing below can hold.
    check "generation is published" published || finish
}

published() {
    tries=0
    while ! grep "generation $generation published" $log; do
        tries=$((tries + 1))
        if [ $tries = 120 ] || ! kill -0 "$daemon"; then
            tail -n 3 $log
            return 1
        fi
        sleep 1
    done
}

# OUTCOME QUESTION...: oracle and loaded program both say so.
explains() {
    outcome=$1
    shift
    answer=$(breakout365 explain --config $config "$@" 2>&1)
    if echo "$answer" | grep -q ": $outcome\$" &&
        echo "$answer" | grep -q "^  loaded: generation $generation says $outcome\$"; then
        return
    fi
    echo "$answer"
    return 1
}

question() {
    check "$*" explains "$@"
}

# NAMESPACE ADDRESS PORT: a page comes from the far side, which only the direct way leads to.
reaches() {
    printf 'GET /page HTTP/1.0\r\n\r\n' | ip netns exec "$1" nc -w 5 "$2" "$3" | grep '^page$'
}

# COMMAND...: whether it succeeds within a minute.
eventually() {
    tries=0
    while ! "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 12 ] || return 1
        sleep 1
    done
}

status() {
    breakout365 status --json | tr -d ' \n'
}

# TEXT: status has it, without blanks. If not, what it has of hooks and counts.
has() {
    document=$(status)
    if echo "$document" | grep -q "$1"; then return; fi
    echo "$document" | grep -oE '"hooks":[^]]*|[a-z_"]*[:,]({|)"packets":[1-9][0-9]*'
    return 1
}

attached() {
    check "$1 has xdp $2, tc $3" has "\"interface\":\"$1\",\"ifindex\":[0-9]*,\"xdp\":$2,\"tc\":\"$3\""
}

counted() {
    check "packets counted as $1" has "\"reason\":\"$1\",\"packets\":[1-9]"
}

report_has() {
    breakout365 support report 1 --json | tr -d ' \n' | grep "$1"
}

traced() {
    timeout 60 breakout365 trace --sample 1 --count 3 --port 443 --json >/tmp/traced
    cat /tmp/traced
    grep -q '"destination":"40.96.0.1".*"verdict":"direct"' /tmp/traced
}

refused() {
    breakout365 status
    [ $? = 10 ]
}

# CODE EXPECTED: how the daemon ended.
ends() {
    [ "$1" = "$2" ] || { echo "exit code $1" && tail -n 3 $log && return 1; }
}

complains() {
    dmesg | grep -E 'WARNING|BUG|Oops|[Vv]erifier'
}

vlan_and_bond() {
    for name in tagged bonded; do ip netns add $name; done
    ip link add trunk0 type veth peer name eth0 netns tagged
    ip link set trunk0 up
    ip -n tagged link set eth0 up
    for port in 0 1; do ip link add port$port type veth peer name eth$port netns bonded; done
    ip link add link trunk0 name trunk0.7 type vlan id 7
    ip -n tagged link add link eth0 name eth0.7 type vlan id 7
    ip link add agg0 type bond mode active-backup miimon 100
    ip -n bonded link add agg0 type bond mode active-backup miimon 100
    for port in 0 1; do
        ip link set port$port master agg0
        ip -n bonded link set eth$port master agg0
    done
    while read -r name ours theirs network; do
        ip addr add "$network.1/24" dev "$ours"
        ip link set "$ours" up
        ip -n "$name" addr add "$network.2/24" dev "$theirs"
        ip -n "$name" link set "$theirs" up
        ip -n "$name" route add default via "$network.1"
    done <<END
tagged trunk0.7 eth0.7 10.9.7
bonded agg0 agg0 10.9.8
END
}

set_up() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs dev /dev
    mount -t bpf bpf /sys/fs/bpf
    mount -t tmpfs tmpfs /run
    for module in /modules/*.ko; do insmod "$module"; done
    ip link set lo up
    for name in client managed far; do
        ip netns add $name
        ip -n $name link set lo up
    done
    # NAMESPACE INTERFACE NETWORK: .1 is the gateway.
    while read -r name interface network; do
        ip link add "$interface" type veth peer name eth0 netns "$name"
        ip addr add "$network.1/24" dev "$interface"
        ip link set "$interface" up
        ip -n "$name" addr add "$network.2/24" dev eth0
        ip -n "$name" link set eth0 up
        ip -n "$name" route add default via "$network.1"
    done <<END
client lan0 10.9.0
managed lan1 10.9.1
far wan0 10.8.0
END
    # A second address of the client, which is not a listed source.
    ip -n client addr add 10.9.2.2/32 dev eth0
    ip route add 10.9.2.2/32 dev lan0
    # Without an Ethernet header. Nobody is behind it.
    ip tuntap add tun0 mode tun
    ip addr add 10.9.3.1/24 dev tun0
    ip link set tun0 up
    vlan_and_bond
    for address in 40.96.0.1 40.97.1.2 52.112.0.1; do ip -n far addr add $address/32 dev lo; done
    for port in 443 444; do ip netns exec far httpd -p $port -h /www; done >/dev/null
    # Only what is marked has a way to the far side.
    ip rule add fwmark 0x01000000/0x01000000 lookup 365
    ip route add default via 10.8.0.2 table 365
    echo 1 >/proc/sys/net/ipv4/ip_forward
}

# From here on the console is the host's. What was said last may have left its line open.
dmesg -n 1
echo
phase="network"
check "is set up" silent set_up
say "kernel $(uname -r)"

generation=0
take "default policy" default.toml
attached lan0 '"native"' "$tc"
question "direct (matched)" 40.96.0.1 tcp/443
question "direct (matched)" 13.107.6.152 tcp/80
question "direct (matched)" 52.112.0.1 udp/3478
question "direct (matched)" 2603:1016::1 udp/443
question "inspect (port_not_listed)" 40.96.0.1 tcp/444
question "inspect (no_prefix)" 9.9.9.9 udp/443
question "inspect (no_prefix)" 2603:1015:ffff::1 tcp/443
check "40.96.0.1 tcp/443 comes by the direct way" reaches client 40.96.0.1 443
check "40.96.0.1 tcp/444 does not" not reaches client 40.96.0.1 444
counted matched
counted port_not_listed
check "proposals accepted" has '"accepted":{"packets":[1-9]'

take "own entries, sources" own.toml
attached lan0 '"native"' "$tc"
attached lan1 null "$tc"
attached tun0 null "$tc"
question "direct (matched)" 10.9.0.2 40.96.0.1 tcp/443
question "direct (matched)" 10.9.0.2 198.18.7.1 tcp/8443
question "direct (matched)" 2001:db8:9::2 2001:db8:7::1 tcp/8443
question "inspect (port_not_listed)" 10.9.0.2 198.18.7.1 tcp/443
question "inspect (excluded)" 10.9.0.2 40.96.0.1 udp/443
question "inspect (excluded)" 10.9.0.2 40.97.1.2 tcp/443
question "inspect (excluded)" 2001:db8:9::2 2603:1016::1 udp/443
question "inspect (source_not_listed)" 10.9.2.2 40.96.0.1 tcp/443
question "inspect (source_not_listed)" 2001:db8:1::2 2603:1016::1 tcp/443
question "inspect (source_not_listed)" --in lan0 10.9.1.2 40.96.0.1 tcp/443
question "direct (matched)" --in lan1 10.9.1.2 40.96.0.1 tcp/443
question "direct (matched)" --in tun0 10.9.3.2 40.96.0.1 tcp/443
check "from a listed source by the direct way" reaches client 40.96.0.1 443
check "by a listed interface by the direct way" reaches managed 40.96.0.1 443
check "what is excluded does not" not reaches client 40.97.1.2 443
ip -n client route replace default via 10.9.0.1 src 10.9.2.2
check "from another source does not" not reaches client 40.96.0.1 443
ip -n client route replace default via 10.9.0.1
counted matched
counted excluded
counted source_not_listed

phase="support window"
check "what is not selected does not come by the direct way" not reaches client 52.112.0.1 443
generation=$((generation + 1))
check "opens" breakout365 support start --client 10.9.0.2 --for 1h --note "case 1"
check "generation is published" published
check "52.112.0.1 tcp/443 comes by the direct way" reaches client 52.112.0.1 443
check "not for others" not reaches managed 52.112.0.1 443
check "what is excluded does not" not reaches client 40.97.1.2 443
check "the report has it" report_has '"packets":[1-9]'
say "hooks $(sed -n 's/.* published: .* on //p' $log | tail -n 1)"
verified=$(sed -n 's/.*instructions verified: //p' $log | tail -n 1)
# Kernels before 5.16 do not say.
case $verified in *unknown* | "") ;; *) say "verified $verified" ;; esac

generation=$((generation + 1))
check "closes" breakout365 support stop 1
check "generation is published" published
check "no more by the direct way" not reaches client 52.112.0.1 443

phase="trace"
(while :; do reaches client 40.96.0.1 443; done) >/dev/null 2>&1 &
traffic=$!
check "shows packets as they are decided" traced
kill $traffic

take "VLAN, bond" links.toml
attached trunk0.7 null "$tc"
# Bonds take native XDP since 5.15.
case $(uname -r) in 5.10.*) xdp=null ;; *) xdp='"native"' ;; esac
attached agg0 $xdp "$tc"
for name in tagged bonded; do
    check "from $name 40.96.0.1 tcp/443 comes by the direct way" reaches $name 40.96.0.1 443
    check "40.96.0.1 tcp/444 does not" not reaches $name 40.96.0.1 444
done
ip link set port0 down
check "nor does it stop with a port of the bond" eventually reaches bonded 40.96.0.1 443

take "generic xdp" generic.toml
attached lan0 '"generic"' "$tc"
question "direct (matched)" 40.96.0.1 tcp/443
check "40.96.0.1 tcp/443 comes by the direct way" reaches client 40.96.0.1 443
counted matched

phase="killed and started again"
kill -9 "$daemon"
wait "$daemon"
check "still by the direct way" reaches client 40.96.0.1 443
cp /etc/default.toml $config
generation=$((generation + 1))
start
check "generation is published" published
attached lan0 '"native"' "$tc"
check "by the direct way" reaches client 40.96.0.1 443

phase="stopped"
kill "$daemon"
wait "$daemon"
check "the daemon ends well" ends $? 0
check "still by the direct way" reaches client 40.96.0.1 443
check "down" breakout365 down
check "no more by the direct way" not reaches client 40.96.0.1 443
check "nothing is loaded" refused
check "the kernel complains of nothing" not complains
finish
