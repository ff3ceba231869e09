/* Service addresses become endpoints' where a program connects or sends, so that no packet is rewritten.
 *
 * What these programs do not decide they leave to the rules for packets: who must be swallowed (its SYNs then reach an
 * endpoint that comes meanwhile), addresses that admit some sources alone (a socket has none yet), and the connect() of
 * UDP where nobody serves, which sends nothing and by which getaddrinfo() looks for routes. */
#pragma once

#include "choose.h"

/* Whether the kernel lets a program say why it refuses (5.18); else who is refused sees EPERM. */
const volatile __u8 says_why = 0;

#define LEAVE 0
#define LED 1
#define REFUSED 2

INLINE struct address twice(__u64 cookie)
{
	struct address address = { .words = { cookie, cookie >> 32, cookie, cookie >> 32 } };
	return address;
}

INLINE struct backend *choose(struct bpf_sock_addr *ctx, const struct frontend_key *key,
			      const struct frontend *frontend, int message, __u64 cookie)
{
	struct range range = frontend->inside;
	/* Who stays: a client under affinity; and a socket that says with each datagram whom it is for, as its flow
	 * would. */
	struct choice_key who = { .frontend = *key };
	__u64 now = 0, longest = 0;
	if (__builtin_expect(frontend->flags & HAS_AFFINITY, 0)) {
		__u64 space = netns_cookie(ctx);
		who.client = twice(space);
		who.kind = CHOICE_OF_CLIENT;
		longest = frontend->affinity * 1000000000ULL;
	} else if (message) {
		who.client = twice(cookie);
		who.kind = CHOICE_OF_SOCKET;
	}
	if (who.kind) {
		now = ktime_ns();
		struct backend *before = chosen(&who, &range, now, longest);
		if (before)
			return before;
	}
	return settle_on(&who, &range, (__u64)random_u32() * range.count >> 32, now);
}

/* What becomes of a socket that wants to reach an address. */
INLINE int lead(struct bpf_sock_addr *ctx, struct frontend_key *key, int message, struct backend *to)
{
	key->port = (__u16)ctx->user_port;
	key->protocol = (__u8)ctx->protocol;
	if (key->protocol != IPPROTO_TCP && key->protocol != IPPROTO_UDP)
		return LEAVE;
	int refused = message || key->protocol == IPPROTO_TCP ? REFUSED : LEAVE;
	struct frontend *frontend = map_lookup(&frontends, key);
	if (!frontend)
		return map_lookup(&cluster, &key->address) ? refused : LEAVE;
	if (frontend->flags & HAS_SOURCES || frontend->target == DROP)
		return LEAVE;
	if (frontend->target == REJECT)
		return refused;
	__u64 cookie = socket_cookie(ctx);
	struct backend *backend = choose(ctx, key, frontend, message, cookie);
	if (!backend)
		return LEAVE;
	*to = *backend;
	struct flow_key at = { .cookie = cookie, .address = to->address, .port = to->port, .protocol = key->protocol };
	struct flow flow = { .address = key->address, .port = key->port };
	map_update(&flows, &at, &flow, ANY);
	return LED;
}

INLINE int answer(int outcome)
{
	if (outcome != REFUSED)
		return 1;
	if (says_why)
		set_retval(-ECONNREFUSED);
	return 0;
}

INLINE int to4(struct bpf_sock_addr *ctx, int message)
{
	struct frontend_key key = { .address.words = { 0, 0, NETWORK32(0xffff), ctx->user_ip4 } };
	struct backend to;
	int outcome = lead(ctx, &key, message, &to);
	if (outcome == LED) {
		ctx->user_ip4 = to.address.words[3];
		ctx->user_port = to.port;
	}
	return answer(outcome);
}

INLINE int to6(struct bpf_sock_addr *ctx, int message)
{
	struct frontend_key key = {
		.address.words = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] }
	};
	struct backend to;
	int outcome = lead(ctx, &key, message, &to);
	if (outcome == LED) {
		ctx->user_ip6[0] = to.address.words[0];
		ctx->user_ip6[1] = to.address.words[1];
		ctx->user_ip6[2] = to.address.words[2];
		ctx->user_ip6[3] = to.address.words[3];
		ctx->user_port = to.port;
	}
	return answer(outcome);
}

/* The Service's address for who was led to a backend, where a program asks whom it speaks to. */
INLINE struct flow *believed(struct bpf_sock_addr *ctx, struct flow_key *at)
{
	at->cookie = socket_cookie(ctx);
	at->port = (__u16)ctx->user_port;
	at->protocol = (__u8)ctx->protocol;
	return map_lookup(&flows, at);
}

INLINE int from4(struct bpf_sock_addr *ctx)
{
	struct flow_key at = { .address.words = { 0, 0, NETWORK32(0xffff), ctx->user_ip4 } };
	struct flow *flow = believed(ctx, &at);
	if (flow) {
		ctx->user_ip4 = flow->address.words[3];
		ctx->user_port = flow->port;
	}
	return 1;
}

INLINE int from6(struct bpf_sock_addr *ctx)
{
	struct flow_key at = {
		.address.words = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] }
	};
	struct flow *flow = believed(ctx, &at);
	if (flow) {
		ctx->user_ip6[0] = flow->address.words[0];
		ctx->user_ip6[1] = flow->address.words[1];
		ctx->user_ip6[2] = flow->address.words[2];
		ctx->user_ip6[3] = flow->address.words[3];
		ctx->user_port = flow->port;
	}
	return 1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return to4(ctx, 0); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return to6(ctx, 0); }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return to4(ctx, 1); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return to6(ctx, 1); }
SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return from4(ctx); }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return from6(ctx); }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return from4(ctx); }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return from6(ctx); }
