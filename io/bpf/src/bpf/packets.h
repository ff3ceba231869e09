/* Service addresses become endpoints' where packets come in by a link from outside, and endpoints' become Services'
 * where the answers leave. Which endpoint a flow gets follows from its addresses and ports alone (Maglev), so that every
 * node that the flow may come by leads it to the same.
 *
 * What is not decided here goes on to the other rules for packets: who is refused (they tell it), SCTP, fragments,
 * extension headers of IPv6, and flows of TCP whose beginning was not seen. They also masquerade what is marked. */
#pragma once

#include "choose.h"

/* The mark that asks for it. */
const volatile __u32 masquerade_mark = 0;

#define ETHERNET 14

/* struct frontend's masquerade. */
#define MASQUERADE_OFF_CLUSTER 1
#define MASQUERADE_ALWAYS 2

struct packet {
	struct track_key key;
	/* Where ports stand. */
	__u32 ports;
	__u8 ipv6;
	/* A SYN, and no answer to one; of UDP any datagram. */
	__u8 begins;
};

struct ipv4_header {
	__u8 version_length;
	__u8 tos;
	__u16 length, id, fragment;
	__u8 ttl, protocol;
	__u16 checksum;
	__u32 source, destination;
};

struct ipv6_header {
	__u32 version_class_label;
	__u16 length;
	__u8 next, hops;
	struct address source, destination;
};

/* Reads a whole packet of TCP or UDP; else 0. */
INLINE int parse(struct __sk_buff *skb, struct packet *packet)
{
	struct track_key *key = &packet->key;
	if (skb->protocol == NETWORK16(ETH_P_IP)) {
		struct ipv4_header ip;
		if (skb_load(skb, ETHERNET, &ip, sizeof(ip)) || ip.fragment & NETWORK16(0x3fff) ||
		    ip.version_length >> 4 != 4)
			return 0;
		packet->ports = ETHERNET + (ip.version_length & 15) * 4;
		key->protocol = ip.protocol;
		key->source.words[2] = key->destination.words[2] = NETWORK32(0xffff);
		key->source.words[3] = ip.source;
		key->destination.words[3] = ip.destination;
	} else if (skb->protocol == NETWORK16(ETH_P_IPV6)) {
		struct ipv6_header ip;
		if (skb_load(skb, ETHERNET, &ip, sizeof(ip)))
			return 0;
		packet->ports = ETHERNET + sizeof(ip);
		packet->ipv6 = 1;
		key->protocol = ip.next;
		key->source = ip.source;
		key->destination = ip.destination;
	} else {
		return 0;
	}
	__u16 ports[2];
	if (skb_load(skb, packet->ports, ports, sizeof(ports)))
		return 0;
	key->source_port = ports[0];
	key->destination_port = ports[1];
	if (key->protocol == IPPROTO_UDP) {
		packet->begins = 1;
		return 1;
	}
	__u8 flags;
	if (key->protocol != IPPROTO_TCP || skb_load(skb, packet->ports + 13, &flags, sizeof(flags)))
		return 0;
	packet->begins = (flags & 0x12) == 0x02;
	return 1;
}

/* Gives a packet another destination (at = 1) or source (at = 0). */
INLINE void rewrite(struct __sk_buff *skb, const struct packet *packet, int at, const struct track *to)
{
	const struct track_key *key = &packet->key;
	const struct address *from = at ? &key->destination : &key->source;
	__u16 port = at ? key->destination_port : key->source_port;
	int udp = key->protocol == IPPROTO_UDP;
	__u32 checksum = packet->ports + (udp ? 6 : 16);
	__u64 flags = udp ? MANGLED_0 : 0;
	if (packet->ipv6) {
		__s64 difference = csum_diff(from, sizeof(*from), &to->address, sizeof(*from), 0);
		l4_csum_replace(skb, checksum, 0, difference, flags | PSEUDO_HEADER);
		l4_csum_replace(skb, checksum, port, to->port, flags | sizeof(port));
		skb_store(skb, ETHERNET + (at ? 24 : 8), &to->address, sizeof(*from), 0);
	} else {
		__u32 before = from->words[3], after = to->address.words[3];
		l4_csum_replace(skb, checksum, before, after, flags | PSEUDO_HEADER | sizeof(after));
		l4_csum_replace(skb, checksum, port, to->port, flags | sizeof(port));
		l3_csum_replace(skb, ETHERNET + 10, before, after, sizeof(after));
		skb_store(skb, ETHERNET + (at ? 16 : 12), &after, sizeof(after), 0);
	}
	skb_store(skb, packet->ports + (at ? 2 : 0), &to->port, sizeof(port), 0);
}

/* The same number for the same flow on every node. */
INLINE __u32 flow_hash(const struct track_key *key)
{
	const __u32 *words = (const __u32 *)key;
	__u32 hash = 0x9e3779b9;
#pragma unroll
	for (int at = 0; at < (int)(sizeof(*key) / sizeof(*words)); at++) {
		hash ^= words[at];
		hash *= 0x85ebca6b;
		hash ^= hash >> 15;
		hash *= 0xc2b2ae35;
		hash ^= hash >> 13;
	}
	return hash;
}

INLINE int holds(__u32 id, const struct address *address)
{
	struct source_key key = { .bits = 32 + 128, .id = id, .address = *address };
	return map_lookup(&sources, &key) != 0;
}

/* Which backend a new flow gets. */
INLINE struct backend *pick(const struct track_key *key, const struct frontend_key *at,
			    const struct frontend *frontend, const struct range *range, int hashed)
{
	struct choice_key who = { .frontend = *at };
	__u64 now = 0;
	if (frontend->flags & HAS_AFFINITY) {
		who.client = key->source;
		who.kind = CHOICE_OF_ADDRESS;
		now = ktime_ns();
		struct backend *before = chosen(&who, range, now, frontend->affinity * 1000000000ULL);
		if (before)
			return before;
	}
	__u32 hash = flow_hash(key);
	__u32 slot = (__u64)hash * range->count >> 32;
	if (hashed && frontend->hashes.count) {
		__u32 index = frontend->hashes.base + hash % frontend->hashes.count;
		__u32 *found = map_lookup(&hashes, &index);
		if (found && *found < range->count)
			slot = *found;
	}
	return who.kind ? settle_on(&who, range, slot, now) : at_place(range, slot);
}

INLINE void lead_on(struct __sk_buff *skb, const struct packet *packet, const struct track *to)
{
	rewrite(skb, packet, 1, to);
	if (to->masquerade)
		skb->mark |= masquerade_mark;
}

SEC("classifier") int from_outside(struct __sk_buff *skb)
{
	struct packet packet = {};
	if (!parse(skb, &packet))
		return NEXT;
	struct track_key *key = &packet.key;
	struct frontend_key at = {
		.address = key->destination, .port = key->destination_port, .protocol = key->protocol
	};
	struct track *track = map_lookup(&tracks, key);
	struct track to;
	if (track && !(packet.begins && key->protocol == IPPROTO_TCP)) {
		to = *track;
		lead_on(skb, &packet, &to);
		return NEXT;
	}
	/* A SYN is the beginning of another connection, whatever was tracked by its ports before: where the other rules
	 * have it, its next packets are theirs as well. */
	if (track)
		map_delete(&tracks, key);
	struct frontend *frontend = packet.begins ? map_lookup(&frontends, &at) : 0;
	if (!frontend)
		return NEXT;
	if (frontend->flags & HAS_SOURCES && !holds(frontend->id, &key->source))
		return SWALLOW;
	int pod = holds(0, &key->source);
	int apart = frontend->outside_target != ABSENT;
	int outside = apart && !pod;
	__u8 target = outside ? frontend->outside_target : frontend->target;
	if (target == DROP)
		return SWALLOW;
	if (target == REJECT)
		return NEXT;
	struct range range = outside ? frontend->outside : frontend->inside;
	struct backend *backend = pick(key, &at, frontend, &range, outside == apart);
	if (!backend)
		return NEXT;
	int masquerade = !apart && (frontend->masquerade == MASQUERADE_ALWAYS ||
				    (frontend->masquerade == MASQUERADE_OFF_CLUSTER && !pod));
	to.address = backend->address;
	to.port = backend->port;
	/* Who reaches itself would answer itself past the node. */
	to.masquerade = masquerade || same(&to.address, &key->source);
	struct track_key answers = {
		.source = to.address,
		.destination = key->source,
		.source_port = to.port,
		.destination_port = key->source_port,
		.protocol = key->protocol,
		.direction = LEAVES,
	};
	struct track service = { .address = key->destination, .port = key->destination_port };
	/* Where a client speaks from one port to one backend by two addresses, answers could not be told apart: the other
	 * rules give one of them another port. */
	struct track *other = map_lookup(&tracks, &answers);
	if (other && (other->port != service.port || !same(&other->address, &service.address)))
		return NEXT;
	map_update(&tracks, &answers, &service, ANY);
	map_update(&tracks, key, &to, ANY);
	lead_on(skb, &packet, &to);
	return NEXT;
}

SEC("classifier") int to_outside(struct __sk_buff *skb)
{
	struct packet packet = {};
	if (!parse(skb, &packet))
		return NEXT;
	packet.key.direction = LEAVES;
	struct track *track = map_lookup(&tracks, &packet.key);
	if (track) {
		struct track to = *track;
		rewrite(skb, &packet, 0, &to);
	}
	return NEXT;
}
