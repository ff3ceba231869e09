//! DNS answers, row by row: the same tables for Sealane and for CoreDNS, whose place it takes. The rows are data: see
//! `dns/table.rs` for how they are written.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dns;

use std::collections::BTreeSet;

/// One test for each table.
macro_rules! tables {
    ($($test:ident)*) => {
        $(#[test]
        fn $test() {
            dns::holds(concat!(stringify!($test), ".table"));
        })*

        #[test]
        fn every_table_is_held() {
            let held: BTreeSet<String> = [$(concat!(stringify!($test), ".table").to_owned()),*].into();
            let files = std::fs::read_dir(dns::folder()).unwrap().map(|f| f.unwrap().file_name());
            let there: BTreeSet<String> =
                files.filter_map(|f| f.into_string().ok()).filter(|f| f.ends_with(".table")).collect();
            assert_eq!(held, there);
        }
    };
}

tables! { kubernetes specification plugins zonal zones multicluster }
