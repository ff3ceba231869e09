/* Who stays with the backend that it got. */
#pragma once

#include "maps.h"

INLINE int same(const struct address *a, const struct address *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] &&
	       a->words[3] == b->words[3];
}

INLINE struct backend *at_place(const struct range *range, __u32 slot)
{
	__u32 index = range->base + slot;
	return map_lookup(&backends, &index);
}

/* The backend at a place of a range that this client chose before, where it is still there. */
INLINE struct backend *chosen(const struct choice_key *key, const struct range *range, __u64 now, __u64 longest)
{
	struct choice *choice = map_lookup(&choices, key);
	if (!choice || choice->slot >= range->count || (longest && now - choice->at > longest))
		return 0;
	struct backend *backend = at_place(range, choice->slot);
	if (!backend || !same(&backend->address, &choice->backend.address) ||
	    backend->port != choice->backend.port)
		return 0;
	/* Affinity ends that long after the last connection. */
	choice->at = now;
	return backend;
}

/* Keeps a choice, and gives the backend at its place back. */
INLINE struct backend *settle_on(const struct choice_key *key, const struct range *range, __u32 slot, __u64 now)
{
	struct backend *backend = at_place(range, slot);
	if (backend) {
		struct choice choice = { .at = now, .backend = *backend, .slot = slot };
		map_update(&choices, key, &choice, ANY);
	}
	return backend;
}
