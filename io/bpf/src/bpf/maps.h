/* The maps that the sink writes and the programs read. `raw.rs` has the same layouts in Rust. */
#pragma once

#include "kernel.h"

/* In network order; IPv4's are mapped (::ffff:a.b.c.d), so that one map serves both families and IPv4 destinations of
 * IPv6 sockets. */
struct address {
	__u32 words[4];
};

/* What packets are looked up by. */
struct frontend_key {
	struct address address;
	__u16 port;
	__u8 protocol;
	__u8 zero;
};

/* A run of `backends`. A changed target gets a fresh one, so that who read the old frontend finds the old backends. */
struct range {
	__u32 base;
	__u32 count;
};

/* What a target is. */
#define BALANCE 0
#define REJECT 1
#define DROP 2
#define ABSENT 3

/* Flags of a frontend. */
#define HAS_AFFINITY 1
#define HAS_SOURCES 2
#define OF_CLUSTER 4

struct frontend {
	struct range inside;
	struct range outside;
	/* A run of `hashes`, for who comes from outside; empty where there is none. */
	struct range hashes;
	/* Whom `sources` names it by. */
	__u32 id;
	/* Seconds. */
	__u32 affinity;
	__u8 target;
	__u8 outside_target;
	__u8 masquerade;
	__u8 flags;
};

struct backend {
	struct address address;
	__u16 port;
	__u16 zero;
};

/* A socket that connected to a Service, whom it was led to, and whom it believes to speak to. */
struct belief {
	/* The socket's; 0 while the rest is being written. */
	__u64 cookie;
	struct address backend;
	struct address service;
	__u16 backend_port;
	__u16 service_port;
	__u32 zero;
};

/* Of a socket that says with each datagram whom it is for: its peer as it truly is. */
struct flow_key {
	__u64 cookie;
	struct address address;
	__u16 port;
	__u8 zero[6];
};

/* And as the program believes. */
struct flow {
	struct address address;
	__u16 port;
	__u16 zero;
};

/* Who was led somewhere by a frontend. */
#define CHOICE_OF_CLIENT 1
#define CHOICE_OF_SOCKET 2
#define CHOICE_OF_ADDRESS 3

struct choice_key {
	/* An address; or the cookie of a network namespace or socket, twice. */
	struct address client;
	struct frontend_key frontend;
	__u32 kind;
};

struct choice {
	/* When it was last followed, in ns since the machine started. */
	__u64 at;
	struct backend backend;
	/* Its place in the frontend's range. */
	__u32 slot;
};

/* A flow from outside, as its packets come, or as the answers to it leave. */
#define COMES 0
#define LEAVES 1

struct track_key {
	struct address source;
	struct address destination;
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 direction;
	__u8 zero[2];
};

/* Where they go, or of answers where they seem to come from. */
struct track {
	struct address address;
	__u16 port;
	__u16 masquerade;
};

/* Some addresses of one frontend; of id 0 the Pods' ranges. */
struct source_key {
	__u32 bits;
	__u32 id;
	struct address address;
};

struct {
	__uint(type, MAP_HASH);
	__uint(map_flags, NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1 << 18);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* Cluster addresses: their other ports are refused. */
struct {
	__uint(type, MAP_HASH);
	__uint(map_flags, NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, struct address);
	__type(value, __u32);
} cluster SEC(".maps");

struct {
	__uint(type, MAP_LPM_TRIE);
	__uint(map_flags, NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct source_key);
	__type(value, __u32);
} sources SEC(".maps");

/* A socket's place follows from its cookie, of which each socket gets the next: the eldest are forgotten. An array, for
 * connect() is to be quick: an entry of a hash of the least recently used costs it 0.4 us, one kept with the socket
 * (sk_storage) 0.3. */
#define BELIEFS (1 << 17)

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, BELIEFS);
	__type(key, __u32);
	__type(value, struct belief);
} beliefs SEC(".maps");

/* Where datagrams were led to; the eldest are forgotten. */
struct {
	__uint(type, MAP_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, MAP_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct choice_key);
	__type(value, struct choice);
} choices SEC(".maps");

/* For each frontend that is reached from outside a table of places in its range, which is the same on every node
 * (Maglev). */
struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1 << 12);
	__type(key, __u32);
	__type(value, __u32);
} hashes SEC(".maps");

struct {
	__uint(type, MAP_LRU_HASH);
	__uint(max_entries, 1 << 17);
	__type(key, struct track_key);
	__type(value, struct track);
} tracks SEC(".maps");
