/*
 * What the C clients share: the values found for a question, and the line that says them.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MOST 512

static char *found[MOST];
static int count;

/* Takes a value, once. */
static void add(const char *text)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(found[i], text))
			return;
	if (count < MOST)
		found[count++] = strdup(text);
}

static void add_address(const struct sockaddr *address)
{
	char text[INET6_ADDRSTRLEN];
	int family = address->sa_family;
	const void *octets = family == AF_INET ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
					       : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;
	add(inet_ntop(family, octets, text, sizeof text));
}

static int order(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Says the values in order, `-` where there are none, or the error; the next question begins with none. */
static void say(const char *error)
{
	qsort(found, (size_t)count, sizeof *found, order);
	if (error)
		printf("error: %s", error);
	else if (!count)
		printf("-");
	for (int i = 0; i < count && !error; i++)
		printf("%s%s", i ? " " : "", found[i]);
	printf("\n");
	fflush(stdout);
	while (count)
		free(found[--count]);
}
