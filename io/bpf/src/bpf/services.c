/* All programs: one object, whose maps they share. */

#include "packets.h"
#include "sockets.h"

/* Of the helpers used, the kernel asks for the GPL for none. */
char licence[] SEC("license") = "Dual MIT/GPL";
