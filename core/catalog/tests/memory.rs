//! What a cluster takes, in octets that are allocated: no clock, and no kernel's rounding.
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::net::Ipv4Addr;

use sealane_api::Object;
use sealane_catalog::{Builder, Event, NamespacedName, Source};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SERVICES: u32 = 2000;
const ENDPOINTS: u32 = 10;

fn metadata(at: u32) -> Value {
    json!({"namespace": format!("team-{}", at % 10), "name": format!("service-{at}"), "uid": "x".repeat(36),
        "labels": {"kubernetes.io/service-name": format!("service-{at}")}})
}

fn service(at: u32) -> Value {
    json!({"metadata": metadata(at), "spec": {"clusterIP": Ipv4Addr::from(0x0a60_0000 + at).to_string(),
        "ports": [{"name": "http", "port": 80}]}})
}

fn slice(at: u32) -> Value {
    let endpoint = |n: u32| {
        json!({"addresses": [Ipv4Addr::from(0x0af4_0000 + at * ENDPOINTS + n).to_string()],
            "conditions": {"ready": true}, "nodeName": format!("node-{n}"), "zone": format!("zone-{}", n % 3),
            "targetRef": {"kind": "Pod", "name": format!("service-{at}-7d9f8c6b5-{n:05}")}})
    };
    json!({"metadata": metadata(at), "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>()})
}

fn list(builder: &mut Builder, peak: &mut isize, region: &Region<'_, System>) {
    for (source, object) in
        [(Source::Services, service as fn(u32) -> Value), (Source::EndpointSlices, slice as fn(u32) -> Value)]
    {
        builder.apply(Event::RelistBegin(source));
        for at in 0..SERVICES {
            builder.apply(Event::Applied(source, Object::new(object(at))));
            *peak = (*peak).max(live(region));
        }
        builder.apply(Event::RelistEnd(source));
    }
}

/// Octets that are allocated and not freed since the region began; what grows counts as allocated.
fn live(region: &Region<'_, System>) -> isize {
    let stats = region.change();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

#[test]
fn an_endpoint_takes_little_and_a_relist_no_more() {
    let region = Region::new(ALLOCATOR);
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices]);
    let mut peak = 0;
    list(&mut builder, &mut peak, &region);
    let first = builder.publish().0;
    let steady = live(&region);
    let endpoint = steady / (SERVICES * ENDPOINTS) as isize;
    // Services and slices included. It was more than 1,000 with a string for each field.
    assert!(endpoint < 280, "{endpoint} octets an endpoint");
    let mut peak = 0;
    list(&mut builder, &mut peak, &region);
    let second = builder.publish().0;
    assert_eq!(second.sequence(), first.sequence());
    assert!(peak * 10 < steady * 11, "{peak} octets at most, {steady} before");
    assert!(live(&region) <= steady + 4096, "{} after, {steady} before", live(&region));
    // A change costs what changed.
    let before = live(&region);
    builder.apply(Event::Deleted(Source::EndpointSlices, Object::new(slice(7))));
    let third = builder.publish().0;
    assert!(third.service(&NamespacedName::new("team-7", "service-7")).unwrap().slices.is_empty());
    let cost = live(&region) - before;
    assert!(cost < 100_000, "{cost} octets for a change while the old snapshot is held");
}
