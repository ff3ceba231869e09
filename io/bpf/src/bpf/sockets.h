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
	__u32 slot = (__u64)random_u32() * range.count >> 32;
	int affine = frontend->flags & HAS_AFFINITY;
	if (__builtin_expect(!affine && !message, 1))
		return at_place(&range, slot);
	/* Who stays: a client under affinity; and a socket that says with each datagram whom it is for, as its flow
	 * would. */
	struct choice_key who = {
		.frontend = *key,
		.client = twice(affine ? netns_cookie(ctx) : cookie),
		.kind = affine ? CHOICE_OF_CLIENT : CHOICE_OF_SOCKET,
	};
	__u64 now = ktime_ns();
	struct backend *before = chosen(&who, &range, now, affine ? frontend->affinity * 1000000000ULL : 0);
	return before ? before : settle_on(&who, &range, slot, now);
}

INLINE struct belief *belief_of(__u64 cookie)
{
	__u32 place = cookie & (BELIEFS - 1);
	return map_lookup(&beliefs, &place);
}

/* Keeps where a socket was led. */
INLINE void remember(__u64 cookie, const struct frontend_key *service, const struct backend *to, int message)
{
	if (message) {
		struct flow_key at = { .cookie = cookie, .address = to->address, .port = to->port };
		struct flow flow = { .address = service->address, .port = service->port };
		map_update(&flows, &at, &flow, ANY);
		return;
	}
	struct belief *belief = belief_of(cookie);
	if (!belief)
		return;
	belief->cookie = 0;
	IN_ORDER;
	belief->backend = to->address;
	belief->backend_port = to->port;
	belief->service = service->address;
	belief->service_port = service->port;
	IN_ORDER;
	belief->cookie = cookie;
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
	remember(cookie, key, to, message);
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

/* Whom a socket believes to speak to that was led to a peer; 0: to that peer. */
INLINE int believed(struct bpf_sock_addr *ctx, const struct address *peer, int message, struct flow *service)
{
	__u64 cookie = socket_cookie(ctx);
	__u16 port = (__u16)ctx->user_port;
	struct belief *belief = belief_of(cookie);
	if (belief && belief->cookie == cookie && belief->backend_port == port && same(&belief->backend, peer)) {
		service->address = belief->service;
		service->port = belief->service_port;
		IN_ORDER;
		/* Where another has got the place meanwhile, this one is forgotten. */
		if (belief->cookie == cookie)
			return 1;
	}
	if (!message)
		return 0;
	struct flow_key at = { .cookie = cookie, .address = *peer, .port = port };
	struct flow *flow = map_lookup(&flows, &at);
	if (flow)
		*service = *flow;
	return flow != 0;
}

INLINE int from4(struct bpf_sock_addr *ctx, int message)
{
	struct address peer = { .words = { 0, 0, NETWORK32(0xffff), ctx->user_ip4 } };
	struct flow service;
	if (believed(ctx, &peer, message, &service)) {
		ctx->user_ip4 = service.address.words[3];
		ctx->user_port = service.port;
	}
	return 1;
}

INLINE int from6(struct bpf_sock_addr *ctx, int message)
{
	struct address peer = {
		.words = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] }
	};
	struct flow service;
	if (believed(ctx, &peer, message, &service)) {
		ctx->user_ip6[0] = service.address.words[0];
		ctx->user_ip6[1] = service.address.words[1];
		ctx->user_ip6[2] = service.address.words[2];
		ctx->user_ip6[3] = service.address.words[3];
		ctx->user_port = service.port;
	}
	return 1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return to4(ctx, 0); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return to6(ctx, 0); }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return to4(ctx, 1); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return to6(ctx, 1); }
SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return from4(ctx, 1); }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return from6(ctx, 1); }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return from4(ctx, 0); }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return from6(ctx, 0); }
