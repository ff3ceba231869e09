/*
 * A libc's resolver as a client: built once with glibc's cc, once with musl-gcc.
 * Reads questions, `KIND NAME` a line; answers each with a line: its values in order, `-` where there are none.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "found.h"

static const char *addresses(const char *name, int family)
{
	struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM }, *list, *at;
	int code = getaddrinfo(name, NULL, &hints, &list);
	/* glibc tells a name without such records from none by EAI_NODATA, which POSIX has no more. */
	if (code == EAI_NONAME || code == -5)
		return NULL;
	if (code)
		return gai_strerror(code);
	for (at = list; at; at = at->ai_next)
		add_address(at->ai_addr);
	freeaddrinfo(list);
	return NULL;
}

static const char *pointer(const char *text)
{
	struct sockaddr_in four = { .sin_family = AF_INET };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6 };
	char host[NI_MAXHOST];
	int is_four = inet_pton(AF_INET, text, &four.sin_addr) == 1;
	if (!is_four && inet_pton(AF_INET6, text, &six.sin6_addr) != 1)
		return "no address";
	int code = is_four
		? getnameinfo((struct sockaddr *)&four, sizeof four, host, sizeof host, NULL, 0, NI_NAMEREQD)
		: getnameinfo((struct sockaddr *)&six, sizeof six, host, sizeof host, NULL, 0, NI_NAMEREQD);
	if (code == EAI_NONAME)
		return NULL;
	if (code)
		return gai_strerror(code);
	add(host);
	return NULL;
}

static const char *records(const char *name, int type)
{
	static unsigned char answer[65536];
	int length = res_search(name, ns_c_in, type, answer, sizeof answer);
	if (length < 0)
		return h_errno == HOST_NOT_FOUND || h_errno == NO_DATA ? NULL : hstrerror(h_errno);
	ns_msg message;
	if (ns_initparse(answer, length, &message))
		return "unreadable";
	for (int i = 0; i < ns_msg_count(message, ns_s_an); i++) {
		ns_rr record;
		char text[NS_MAXDNAME + 64], target[NS_MAXDNAME];
		if (ns_parserr(&message, ns_s_an, i, &record))
			return "unreadable record";
		const unsigned char *data = ns_rr_rdata(record);
		if ((int)ns_rr_type(record) != type)
			continue;
		if (type == ns_t_txt) {
			snprintf(text, sizeof text, "%.*s", data[0], data + 1);
		} else {
			if (ns_name_uncompress(answer, answer + length, data + 6, target, sizeof target) < 0)
				return "unreadable name";
			snprintf(text, sizeof text, "%d:%d:%d:%s", ns_get16(data), ns_get16(data + 2),
				 ns_get16(data + 4), target);
		}
		add(text);
	}
	return NULL;
}

int main(void)
{
	char kind[16], name[1024];
	while (scanf("%15s %1023s", kind, name) == 2) {
		const char *error = "unknown kind";
		if (!strcmp(kind, "A"))
			error = addresses(name, AF_INET);
		else if (!strcmp(kind, "AAAA"))
			error = addresses(name, AF_INET6);
		else if (!strcmp(kind, "BOTH"))
			error = addresses(name, AF_UNSPEC);
		else if (!strcmp(kind, "PTR"))
			error = pointer(name);
		else if (!strcmp(kind, "SRV"))
			error = records(name, ns_t_srv);
		else if (!strcmp(kind, "TXT"))
			error = records(name, ns_t_txt);
		say(error);
	}
	return 0;
}
