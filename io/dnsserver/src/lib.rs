//! sealane-dnsserver
