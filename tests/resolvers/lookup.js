// Node's two resolvers as clients: `lookup.js lookup` is dns.lookup, the libc's; `lookup.js resolve` is
// dns.resolve*, its c-ares. Reads questions, `KIND NAME` a line; answers each with a line: its values in order, `-`
// where there are none.
'use strict';
const { promises: dns } = require('node:dns');
const readline = require('node:readline');

async function lookup(kind, name) {
  if (kind === 'PTR') return [(await dns.lookupService(name, 80)).hostname];
  const family = { A: 4, AAAA: 6, BOTH: 0 }[kind];
  return (await dns.lookup(name, { family, all: true })).map((found) => found.address);
}

async function resolve(kind, name) {
  switch (kind) {
    case 'SRV':
      return (await dns.resolveSrv(name)).map((r) => `${r.priority}:${r.weight}:${r.port}:${r.name}`);
    case 'TXT':
      return (await dns.resolveTxt(name)).map((texts) => texts.join(''));
    case 'PTR':
      return dns.reverse(name);
    default:
      return dns.resolve(name, kind);
  }
}

async function main() {
  const ask = process.argv[2] === 'lookup' ? lookup : resolve;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [kind, name] = line.split(' ');
    try {
      const found = [...new Set(await ask(kind, name))].sort();
      console.log(found.length ? found.join(' ') : '-');
    } catch (error) {
      console.log(['ENOTFOUND', 'ENODATA'].includes(error.code) ? '-' : `error: ${error}`);
    }
  }
}

main();
