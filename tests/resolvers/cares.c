/*
 * c-ares as a client. Reads questions, `KIND NAME` a line; answers each with a line: its values in order, `-` where
 * there are none.
 */
#include <ares.h>
#include <ares_nameser.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

#include "found.h"

static const char *error;

/* Whether there is an answer to read. */
static int good(int status)
{
	if (status != ARES_SUCCESS && status != ARES_ENOTFOUND && status != ARES_ENODATA)
		error = ares_strerror(status);
	return status == ARES_SUCCESS;
}

static void on_addresses(void *unused, int status, int timeouts, struct ares_addrinfo *list)
{
	(void)unused, (void)timeouts;
	if (!good(status))
		return;
	for (struct ares_addrinfo_node *at = list->nodes; at; at = at->ai_next)
		add_address(at->ai_addr);
	ares_freeaddrinfo(list);
}

static void on_host(void *unused, int status, int timeouts, struct hostent *host)
{
	(void)unused, (void)timeouts;
	if (good(status))
		add(host->h_name);
}

static void on_srv(void *unused, int status, int timeouts, unsigned char *answer, int length)
{
	struct ares_srv_reply *list;
	(void)unused, (void)timeouts;
	if (!good(status) || !good(ares_parse_srv_reply(answer, length, &list)))
		return;
	for (struct ares_srv_reply *at = list; at; at = at->next) {
		char text[1280];
		snprintf(text, sizeof text, "%d:%d:%d:%s", at->priority, at->weight, at->port, at->host);
		add(text);
	}
	ares_free_data(list);
}

static void on_txt(void *unused, int status, int timeouts, unsigned char *answer, int length)
{
	struct ares_txt_reply *list;
	(void)unused, (void)timeouts;
	if (!good(status) || !good(ares_parse_txt_reply(answer, length, &list)))
		return;
	for (struct ares_txt_reply *at = list; at; at = at->next)
		add((char *)at->txt);
	ares_free_data(list);
}

static void wait_for(ares_channel channel)
{
	for (;;) {
		fd_set reading, writing;
		struct timeval most = { 10, 0 }, wait, *until;
		FD_ZERO(&reading);
		FD_ZERO(&writing);
		int number = ares_fds(channel, &reading, &writing);
		if (!number)
			return;
		until = ares_timeout(channel, &most, &wait);
		select(number, &reading, &writing, NULL, until);
		ares_process(channel, &reading, &writing);
	}
}

static void ask(ares_channel channel, const char *kind, const char *name)
{
	struct ares_addrinfo_hints hints = { .ai_socktype = SOCK_STREAM };
	unsigned char address[16];
	if (!strcmp(kind, "SRV")) {
		ares_search(channel, name, C_IN, T_SRV, on_srv, NULL);
	} else if (!strcmp(kind, "TXT")) {
		ares_search(channel, name, C_IN, T_TXT, on_txt, NULL);
	} else if (!strcmp(kind, "PTR")) {
		int family = inet_pton(AF_INET, name, address) == 1 ? AF_INET : AF_INET6;
		if (family == AF_INET6 && inet_pton(AF_INET6, name, address) != 1) {
			error = "no address";
			return;
		}
		ares_gethostbyaddr(channel, address, family == AF_INET ? 4 : 16, family, on_host, NULL);
	} else {
		hints.ai_family = !strcmp(kind, "A") ? AF_INET : !strcmp(kind, "AAAA") ? AF_INET6 : AF_UNSPEC;
		ares_getaddrinfo(channel, name, NULL, &hints, on_addresses, NULL);
	}
	wait_for(channel);
}

int main(void)
{
	ares_channel channel;
	char kind[16], name[1024];
	if (ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 1;
	while (scanf("%15s %1023s", kind, name) == 2) {
		error = NULL;
		ask(channel, kind, name);
		say(error);
	}
	ares_destroy(channel);
	return 0;
}
