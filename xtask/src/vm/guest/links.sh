# What traffic comes in by besides a plain port, and what takes it past the hooks: systemd.sh reads
# this in.

# INTERFACE...: these are inside, too.
inside() {
    configure "$(printf '[[interface]]\nname = "%s"\n' "$@")"
    check "$* is taken in" systemctl reload $unit
}

# INTERFACE XDP TC: how it is attached, as status has it.
hooked() {
    breakout365 status --json | tr -d ' \n' | grep -o '"interface":"[^}]*' |
        grep "\"$1\",\"ifindex\":[0-9]*,\"xdp\":$2,\"tc\":$3"
}

# NAMESPACE: what is selected goes direct from there, and nothing else.
parted() {
    check "Microsoft 365 goes direct" soon goes_from "$1" 40.96.0.1 direct
    check "the rest is inspected" goes_from "$1" 9.9.9.9 inspected
}

# SEVERITY CHECK TEXT: doctor finds it.
finds() {
    breakout365 doctor --no-dns | grep -E "^$1 +$2 +.*$3"
}

# NAMESPACE OURS THEIRS NET: two interfaces that see each other get addresses, and the namespace its
# way out.
joined() {
    ip address add "$4.1/24" dev "$2"
    ip link set "$2" up
    ip -n "$1" address add "$4.2/24" dev "$3"
    ip -n "$1" link set "$3" up
    ip -n "$1" route add default via "$4.1"
}

offloaded() {
    conntrack -L -p tcp -d 40.96.0.1 | grep OFFLOAD
}

phase="VLAN"
ip netns add tagged
ip link add trunk0 type veth peer name eth0 netns tagged
ip link set trunk0 up
ip -n tagged link set eth0 up
ip link add link trunk0 name trunk0.7 type vlan id 7
ip -n tagged link add link eth0 name eth0.7 type vlan id 7
joined tagged trunk0.7 eth0.7 10.7.0
inside trunk0.7
check "tc classifies there" hooked trunk0.7 null '"clsact"'
parted tagged
check "doctor knows it" finds note vlan 'trunk0.7: a VLAN'
inside trunk0
check "on what carries it XDP does" hooked trunk0 '"native"' '"clsact"'
check "what is not named is inspected" goes_from tagged 40.96.0.1 inspected
check "doctor says so" finds note vlan 'trunk0.7 on it .* name those that are inside'
check "doctor says that XDP does not see the tag" finds note vlan-offload 'trunk0: the card takes off'
inside trunk0 trunk0.7
parted tagged
# From here on XDP sees it: the tag is in the frame.
ip netns exec tagged ethtool -K eth0 txvlan off >/run/ethtool
parted tagged

phase="bond"
ip netns add bonded
for port in 0 1; do ip link add port$port type veth peer name eth$port netns bonded; done
ip link add agg0 type bond mode active-backup miimon 100
ip -n bonded link add agg0 type bond mode active-backup miimon 100
for port in 0 1; do
    ip link set port$port master agg0
    ip -n bonded link set eth$port master agg0
done
joined bonded agg0 agg0 10.8.0
inside agg0
check "XDP classifies on both ports" hooked agg0 '"native"' '"clsact"'
parted bonded
ip link set port0 down
check "one port goes" soon grep -x port1 /sys/class/net/agg0/bonding/active_slave
parted bonded
ip link set port0 up
inside port0
check "doctor says what to name" finds warning bond 'name agg0 in its place'

phase="WireGuard"
ip netns add remote
ip link add under0 type veth peer name eth0 netns remote
joined remote under0 eth0 10.9.0
ip -n remote route del default
ip link add wg0 type wireguard
ip -n remote link add wg0 type wireguard
for end in ours theirs; do (umask 077 && wg genkey | tee /run/$end.key | wg pubkey >/run/$end.pub); done
wg set wg0 private-key /run/ours.key listen-port 51820 peer "$(cat /run/theirs.pub)" \
    allowed-ips 10.10.0.2/32
ip netns exec remote wg set wg0 private-key /run/theirs.key peer "$(cat /run/ours.pub)" \
    endpoint 10.9.0.1:51820 allowed-ips 0.0.0.0/0
joined remote wg0 wg0 10.10.0
inside wg0
check "tc classifies what comes out of the tunnel" hooked wg0 null '"clsact"'
parted remote
check "doctor knows it" finds ok link-layer 'wg0: wireguard, no Ethernet header: tc classifies'
configure '[[interface]]
name = "wg0"
hook = "xdp"'
check "XDP is refused there" not systemctl reload $unit
check "and doctor says why" finds error link-layer 'wg0: wireguard, .*XDP cannot classify'

phase="flow offload"
configure ""
check "it reloads" systemctl reload $unit
cat >/run/theirs.nft <<END
table inet theirs {
    flowtable fast {
        hook ingress priority 0
        devices = { lan0, wan0 }
    }
    chain forward {
        type filter hook forward priority 0
        meta l4proto { tcp, udp } flow add @fast
    }
}
END
check "somebody has a flowtable" nft -f /run/theirs.nft
check "doctor knows it" finds note flow-offload 'inet theirs fast'
ip netns exec client perl /packages/client.pl 40.96.0.1 >/run/client.log 2>&1 &
waiting=$!
check "a connection goes direct" soon waits direct
check "past the hooks" soon offloaded
ends=$(ended)
check "it is revoked" breakout365 revoke --prefix 40.96.0.0/13
check "its client is reset" soon ended_again
check "and decided anew" soon waits direct
check "past the hooks" soon offloaded
ends=$(ended)
ip -n far link set wan1 down
check "it is reset when the uplink goes" soon ended_again
check "and comes back by inspection" soon waits inspected
ip -n far link set wan1 up
ip -n far route replace default via 198.51.100.2
check "the uplink comes back" soon goes 40.96.0.1 direct
kill $waiting
nft delete table inet theirs
