/* What the kernel promises to eBPF programs: types, numbers of helpers, layouts of contexts (its uapi, bpf.h). Kept
 * here, so that building needs clang alone and no kernel's headers. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
/* What is written before in a program is written before. */
#define IN_ORDER __asm__ volatile("" ::: "memory")
#define INLINE static inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

/* enum bpf_map_type */
#define MAP_HASH 1
#define MAP_ARRAY 2
#define MAP_LRU_HASH 9
#define MAP_LPM_TRIE 11
/* flags of maps and of updates */
#define NO_PREALLOC 1
#define ANY 0

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ECONNREFUSED 111
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
/* What a program at a link says of a packet: it goes on to whatever else looks at it, or no further. */
#define NEXT -1
#define SWALLOW 2
/* Flags of l4_csum_replace(): an address counts in the pseudo header; of UDP 0 is no checksum. */
#define PSEUDO_HEADER 0x10
#define MANGLED_0 0x20

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*map_delete)(void *map, const void *key) = (void *)3;
static __u64 (*ktime_ns)(void) = (void *)5;
static __u32 (*random_u32)(void) = (void *)7;
static long (*skb_store)(void *skb, __u32 offset, const void *from, __u32 length, __u64 flags) = (void *)9;
static long (*l3_csum_replace)(void *skb, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)10;
static long (*l4_csum_replace)(void *skb, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)11;
static long (*skb_load)(const void *skb, __u32 offset, void *to, __u32 length) = (void *)26;
static __s64 (*csum_diff)(const void *from, __u32 from_size, const void *to, __u32 to_size, __u32 seed) = (void *)28;
static __u64 (*socket_cookie)(void *ctx) = (void *)46;
static __u64 (*netns_cookie)(void *ctx) = (void *)122;
static int (*set_retval)(int retval) = (void *)187;

/* What connect(), sendmsg(), recvmsg() and getpeername() show and let change. Addresses and ports are in network order. */
struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	__u64 sk;
};

/* The beginning of what a program at a link sees of a packet. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NETWORK32(x) __builtin_bswap32(x)
#define NETWORK16(x) __builtin_bswap16(x)
#else
#define NETWORK32(x) (x)
#define NETWORK16(x) (x)
#endif
