// Go's own resolver as a client. Reads questions, `KIND NAME` a line; answers each with a line: its values in
// order, `-` where there are none.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
)

func ask(kind, name string) ([]string, error) {
	ctx, resolver := context.Background(), &net.Resolver{PreferGo: true}
	networks := map[string]string{"A": "ip4", "AAAA": "ip6", "BOTH": "ip"}
	var found []string
	switch kind {
	case "SRV":
		_, records, err := resolver.LookupSRV(ctx, "", "", name)
		for _, r := range records {
			target := strings.TrimSuffix(r.Target, ".")
			found = append(found, fmt.Sprintf("%d:%d:%d:%s", r.Priority, r.Weight, r.Port, target))
		}
		return found, err
	case "TXT":
		return resolver.LookupTXT(ctx, name)
	case "PTR":
		names, err := resolver.LookupAddr(ctx, name)
		for _, n := range names {
			found = append(found, strings.TrimSuffix(n, "."))
		}
		return found, err
	default:
		addresses, err := resolver.LookupIP(ctx, networks[kind], name)
		for _, a := range addresses {
			found = append(found, a.String())
		}
		return found, err
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		kind, name, _ := strings.Cut(lines.Text(), " ")
		found, err := ask(kind, name)
		var missing *net.DNSError
		switch {
		case errors.As(err, &missing) && missing.IsNotFound:
			fmt.Println("-")
		case err != nil:
			fmt.Println("error:", err)
		default:
			slices.Sort(found)
			fmt.Println(strings.Join(slices.Compact(found), " "))
		}
	}
}
