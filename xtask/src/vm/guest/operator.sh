# What the sandbox of the service has to leave possible, and what an operator does: systemd.sh reads
# this in.

# What the journal has from here on is what `said_since` looks at.
since_now() {
    journalctl --sync
    cursor=$(journalctl --quiet --lines 0 --show-cursor | sed -n 's/^-- cursor: //p')
}

said_since() {
    journalctl --sync
    journalctl --quiet --output cat --identifier breakout365 --after-cursor "$cursor" "$@"
}

# TEXT: what the last run of the service has said is one line, and has the text.
said_only() {
    journalctl --sync
    lines=$(journalctl --quiet --output cat _COMM=breakout365 \
        _SYSTEMD_INVOCATION_ID="$(property InvocationID)")
    echo "$lines"
    [ "$(echo "$lines" | wc -l)" = 1 ] && [[ $lines == *$1* ]]
}

was_said() {
    said_since | grep "$1"
}

# UNIT: its exposure, of ten, as systemd-analyze reckons it.
exposure() {
    systemd-analyze security --no-pager "$1" |
        sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p'
}

# NAMESPACE ADDRESS WAY: a new connection from there goes this way.
goes_from() {
    is "$(ip netns exec "$1" perl /packages/client.pl "$2" once 2>&1)" "$3"
}

# ADDRESS WAY: one of the client does.
goes() {
    goes_from client "$@"
}

# WAY: the connection that waits went this way.
waits() {
    is "$(tail -n 1 /run/client.log)" "$1"
}

ended() {
    grep -c '^ended: Connection reset' /run/client.log
}

ended_again() {
    [ "$(ended)" -gt "$ends" ]
}

# STATE REASON: of the uplink.
uplink() {
    breakout365 status --json | tr -d ' \n' | grep -o '"family":"ipv4","state":"[^}]*' |
        grep "\"state\":\"$1\",\"reason\":$2,"
}

doctor() {
    breakout365 doctor --no-dns
    case $? in 0 | 17) ;; *) return 1 ;; esac
}

scrape() {
    exec 3<>/dev/tcp/127.0.0.1/9365
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
    tr -d '\r' <&3
}

has_series() {
    scrape /metrics >/run/scrape
    grep -E "^$1\$" /run/scrape || { head -n 5 /run/scrape && return 1; }
}

phase="capabilities"
for left_out in CAP_BPF CAP_NET_ADMIN CAP_PERFMON; do
    kept=$(printf '%s\n' CAP_BPF CAP_NET_ADMIN CAP_PERFMON | grep -v $left_out | tr '\n' ' ')
    drop_in AmbientCapabilities= "AmbientCapabilities=$kept" \
        CapabilityBoundingSet= "CapabilityBoundingSet=$kept" Restart=no
    check "without $left_out it does not start" not systemctl restart $unit
    check "and ends with exit code 6" has ExecMainStatus 6
    check "and with one line" soon said_only $left_out
done
no_drop_in
check "with all three it starts" systemctl restart $unit

phase="sandbox"
check "the exposure of the service is 2.5 at most" \
    awk "BEGIN { print $(exposure $unit); exit !($(exposure $unit) <= 2.5) }"
check "it writes to the journal itself" bash -c \
    "journalctl --quiet --output verbose --unit $unit _TRANSPORT=journal | grep 'CODE_FILE=.*hooks.rs'"
iptables -t mangle -N theirs
iptables -t mangle -A theirs -j MARK --set-mark 0x1
configure '[egress.health]
probes = ["40.96.0.1:443"]
interval = "2s"
fall = 2
rise = 2'
since_now
check "it starts" systemctl restart $unit
check "it sees what iptables does with our mark" soon was_said 'iptables mangle.*theirs'
iptables -t mangle -F theirs
iptables -t mangle -X theirs
check "probes are answered" soon uplink up null
kill "$far"
check "and their silence is noticed" soon uplink down '"probes_failed"'
far_side
check "and its end" soon uplink up null

phase="uplink"
ip netns exec client perl /packages/client.pl 40.96.0.1 >/run/client.log 2>&1 &
waiting=$!
check "a connection goes direct" soon waits direct
check "others do not" goes 9.9.9.9 inspected
ends=$(ended)
ip -n far link set wan1 down
check "it is reset when the uplink goes" soon ended_again
check "and comes back by inspection" soon waits inspected
check "status says why" soon uplink down '"no_carrier"'
ip -n far link set wan1 up
ip -n far route replace default via 198.51.100.2
check "the uplink comes back" soon uplink up null
check "new connections go direct" goes 40.96.0.1 direct
check "the other one stays where it is" waits inspected
kill $waiting

phase="revoke"
ip netns exec client perl /packages/client.pl 40.96.0.1 >/run/client.log 2>&1 &
waiting=$!
check "a connection goes direct" soon waits direct
ends=$(ended)
check "it is revoked" breakout365 revoke --prefix 40.96.0.0/13
check "its client is reset" soon ended_again
check "and decided anew" soon waits direct
kill $waiting

phase="queue"
check "a chain for an inline inspector is exported" bash -c \
    "breakout365 export --format chain-nft --config $config --to queue:0 >/run/chain"
check "nftables loads it" nft -f /run/chain
check "direct flows pass it" goes 40.96.0.1 direct
check "nobody has the others, without an inspector" is \
    "$(ip netns exec client perl /packages/client.pl 9.9.9.9 once 2>&1 | grep -ci time)" 1
check "it loads a second time" nft -f /run/chain
check "and has one queue for each way" is \
    "$(nft list table inet breakout365_inspection | grep -c ' queue ')" 2
check "it is taken away" nft delete table inet breakout365_inspection
check "others are inspected as before" goes 9.9.9.9 inspected

phase="support"
check "what is not selected is inspected" goes 52.112.0.1 inspected
check "a window opens" breakout365 support start --client 192.0.2.2 --for 1h --note "case 1"
check "it goes direct" goes 52.112.0.1 direct
check "the window is on record" test -s /var/lib/breakout365/windows.json
check "it restarts" systemctl restart $unit
check "it goes direct still" goes 52.112.0.1 direct
check "the window closes" breakout365 support stop 1
check "it is inspected again" goes 52.112.0.1 inspected
check "the report has what went direct" bash -c "breakout365 support report 1 --json |
    tr -d ' \n' | grep '\"packets\":[1-9]'"

phase="looking on"
check "trace shows packets" timeout 60 breakout365 trace --sample 1 --count 3
check "doctor finds nothing above a warning" doctor
say "doctor" $(echo "$said" | grep ^warning)

phase="exporter"
exporter=breakout365-exporter.service
check "it starts" systemctl enable --now $exporter
pid=$(systemctl show --value --property MainPID $exporter)
check "it is not root" is "$(user_of "$pid")" breakout365-exporter
check "it has no capability" is \
    "$(sed -n 's/Cap\(Eff\|Prm\|Bnd\|Amb\):\t//p' "/proc/$pid/status" | sort -u)" 0000000000000000
check "its exposure is 2.5 at most" \
    awk "BEGIN { print $(exposure $exporter); exit !($(exposure $exporter) <= 2.5) }"
check "the daemon answers it" has_series 'breakout365_up 1'
check "it has what was decided" has_series \
    'breakout365_packets_total\{.*interface="lan0".*verdict="direct".*\} [1-9][0-9]*'
