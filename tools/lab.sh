# shellcheck shell=bash
# The lab's library: a head and nodes, each in its own network namespace, behind one switch (a
# bridge). Only `tools/lab` can use it, because all of it lives in a sandbox that tools/lab makes;
# there every bash script has these functions without asking (BASH_ENV points here).
#
#      head            node1            node2      namespaces: eth0, 192.0.2.1, .11, .12 ...
#       | eth0           | eth0           | eth0
#   ----+----------------+----------------+----    the switch: ports `head`, `node1`, `node2`;
#                                                  loss, filters, rates and counters are its
#
# The kernel holds all state (links, nft chains, qdiscs), so any process of the sandbox can change
# the network at any time. The environment chooses, before lab_up:
#   LAB_WIRE       packets  every datagram is a packet of its own on the wire, as behind a network
#                           card: the sender's kernel segments (GSO), the receiver's merges (GRO),
#                           and the loss hits single packets. The default.
#                  gso      bursts of one send (up to 46 datagrams) cross the wire whole, as veth
#                           does by nature: ten times cheaper, but a lost packet is a lost burst.
#   LAB_SNOOPING   1: the switch follows IGMP (default 0: it floods)
#   LAB_QUERIER    1: the switch asks for memberships, as a well-run network does (default 0)

lab_address() { # NODE -> its address
    case $1 in
    head) echo 192.0.2.1 ;;
    node*) echo "192.0.2.$((10 + ${1#node}))" ;;
    esac
}

lab_nodes() { # the names of all nodes, without the head
    ip netns list | awk '/^node/ { print $1 }' | sort -V
}

# lab_up N: the switch, the head and N nodes.
lab_up() {
    local i
    ip link set lo up
    ip link add name switch type bridge stp_state 0 forward_delay 0 \
        mcast_snooping "${LAB_SNOOPING:-0}" mcast_querier "${LAB_QUERIER:-0}"
    ip link set switch up
    nft -f - <<'NFT'
add table bridge lab
add chain bridge lab forward { type filter hook forward priority 0; policy accept; }
NFT
    lab_join head
    for ((i = 1; i <= $1; i++)); do lab_join "node$i"; done
}

# lab_add_node: one node more, at any time; prints its name.
lab_add_node() {
    local last
    last=$(lab_nodes | tail -n 1)
    last=${last#node}
    lab_join "node$((${last:-0} + 1))"
    echo "node$((${last:-0} + 1))"
}

lab_join() { # NODE: its namespace, its cable and its rules on the switch
    local node=$1
    ip netns add "$node"
    ip link add name "$node" type veth peer name eth0 netns "$node"
    ip link set "$node" master switch
    lab_in "$node" sh -c "
        echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null
        ip link set lo up
        ip address add $(lab_address "$node")/24 brd + dev eth0" || return
    lab_offloads "$node"
    nft -f - <<NFT
add counter bridge lab lost_$node
add counter bridge lab filtered_$node
add chain bridge lab filter_$node
add chain bridge lab loss_$node
add rule bridge lab forward oifname "$node" jump filter_$node
add rule bridge lab forward iifname "$node" jump filter_$node
add rule bridge lab forward oifname "$node" jump loss_$node
NFT
    ip link set "$node" up
    lab_in "$node" sh -c 'ip link set eth0 up && ip route add 224.0.0.0/4 dev eth0'
}

# What veth does is not what a network card does; see LAB_WIRE above. Without ethtool the sender's
# segmentation is still forced, only the receiver's merging is missing (it costs them more CPU).
lab_offloads() { # NODE
    [ "${LAB_WIRE:-packets}" = packets ] || return 0
    lab_in "$1" ip link set eth0 gso_max_segs 1
    if command -v ethtool >/dev/null; then
        lab_in "$1" ethtool -K eth0 tso off tx-udp-segmentation off gro on
        ethtool -K "$1" tso off tx-udp-segmentation off
    fi
}

lab_in() { # NODE COMMAND...: in the node's network only
    nsenter --net="/run/netns/$1" -- "${@:2}"
}

# lab_exec NODE COMMAND...: runs it on the node, under the node's host name.
lab_exec() {
    # shellcheck disable=SC2016
    lab_in "$1" unshare --uts -- sh -c 'hostname "$0"; exec "$@"' "$@"
}

# lab_spawn NODE COMMAND...: the same, in the background; LAB_PID is the process itself, to kill.
lab_spawn() {
    # shellcheck disable=SC2016
    (exec nsenter --net="/run/netns/$1" -- unshare --uts -- sh -c \
        'hostname "$0"; exec "$@"' "$@") &
    # shellcheck disable=SC2034
    LAB_PID=$!
}

# lab_loss NODE PERCENT [all|udp]: loses that share of what the switch sends to the node, at random
# and apart from every other node. 0 ends it.
lab_loss() {
    local node=$1 per_million only=
    per_million=$(awk -v percent="$2" 'BEGIN { printf "%d", percent * 10000 + 0.5 }')
    [ "${3:-all}" = all ] || only="ether type ip ip protocol udp"
    {
        echo "flush chain bridge lab loss_$node"
        [ "$per_million" -eq 0 ] || echo "add rule bridge lab loss_$node $only \
            numgen random mod 1000000 < $per_million counter name lost_$node drop"
    } | nft -f -
}

# lab_filter_multicast NODE [on|off]: no multicast and no IGMP passes between switch and node.
lab_filter_multicast() {
    {
        echo "flush chain bridge lab filter_$1"
        [ "${2:-on}" = off ] || echo "add rule bridge lab filter_$1 \
            ether type ip ip daddr 224.0.0.0/4 counter name filtered_$1 drop"
    } | nft -f -
}

# lab_storm_control NODE MBIT: the switch sends it no more multicast than that; 0 ends it.
lab_storm_control() {
    {
        echo "flush chain bridge lab filter_$1"
        [ "$2" = 0 ] || echo "add rule bridge lab filter_$1 \
            ether type ip ip daddr 224.0.0.0/4 limit rate over $(($2 * 125)) kbytes/second \
            counter name filtered_$1 drop"
    } | nft -f -
}

# lab_rate NODE MBIT: the speed of its cable, each way. 0 takes the limit away.
lab_rate() {
    local tbf="root tbf rate ${2}mbit burst 128kb latency 50ms"
    if [ "$2" = 0 ]; then
        tc qdisc delete dev "$1" root 2>/dev/null
        lab_in "$1" tc qdisc delete dev eth0 root 2>/dev/null
        return 0
    fi
    # shellcheck disable=SC2086
    tc qdisc replace dev "$1" $tbf && lab_in "$1" tc qdisc replace dev eth0 $tbf
}

# lab_link NODE up|down: plugs and pulls the cable at the switch.
lab_link() {
    ip link set "$1" "$2"
}

# lab_counters: per port, what the switch took in, gave out, lost and filtered. With LAB_WIRE=gso a
# packet is a whole burst, and its bytes lack the headers of all datagrams but the first.
lab_counters() {
    local port
    printf '%s\n' "port bytes_in packets_in bytes_out packets_out lost filtered"
    for port in head $(lab_nodes); do
        echo "$port" "$(lab_port "$port")" \
            "$(lab_counter "lost_$port")" "$(lab_counter "filtered_$port")"
    done
}

lab_port() { # NODE -> bytes_in packets_in bytes_out packets_out, as its port of the switch sees it
    ip -s -o link show dev "$1" | sed 's/\\/\n/g' |
        awk '/RX:/ { getline; rx = $1 " " $2 } /TX:/ { getline; tx = $1 " " $2 } END { print rx, tx }'
}

lab_counter() { # NAME -> packets
    nft list counter bridge lab "$1" | awk '/packets/ { print $2 }'
}

# lab_until SECONDS COMMAND...: asks ten times a second until it succeeds; fails at the deadline.
lab_until() {
    local turns=$(($1 * 10))
    shift
    until "$@"; do
        ((turns-- > 0)) || return 1
        sleep 0.1
    done
}
