//! `sealane check`: what is wrong with Corefiles, without starting anything.

use std::io::Read as _;
use std::path::Path;

use sealane_dns::corefile::CorefileError;
use sealane_dnsserver::{Settings, problems};

use crate::cli::{CheckArgs, Output};

/// One line for each problem on standard output, `FILE:LINE:COLUMN: WHAT`, or all of them as JSON.
pub(crate) fn run(args: &CheckArgs) -> Result<(), String> {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for file in &args.files {
        match of(file, args.dns_port) {
            Ok(problems) => found.extend(problems),
            Err(why) => unread.push(why),
        }
    }
    match args.output {
        Some(Output::Json) => {
            let rows = found.iter().map(|CorefileError { at, message }| {
                serde_json::json!({"file": *at.file, "line": at.line, "column": at.column, "message": message})
            });
            println!("{}", serde_json::Value::from_iter(rows));
        }
        None => found.iter().for_each(|problem| println!("{problem}")),
    }
    if let Some(why) = unread.into_iter().next() {
        return Err(format!("check: {why}"));
    }
    match found.len() {
        0 => Ok(()),
        1 => Err("check: 1 problem; put it right and check again".to_owned()),
        n => Err(format!("check: {n} problems; put them right and check again")),
    }
}

fn of(file: &Path, port: u16) -> Result<Vec<CorefileError>, String> {
    let (name, text) = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| format!("cannot read standard input: {e}"))?;
        (Path::new("<stdin>"), text)
    } else {
        let text =
            std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        (file, text)
    };
    if let Some(kind) = kubernetes(&text) {
        return Err(format!(
            "{} is a {kind}, not a Corefile; `kubectl apply --dry-run=server -f` checks those",
            name.display()
        ));
    }
    let mut settings = Settings::new(name);
    settings.default_port = port;
    problems(&settings, Some(text)).map_err(|e| e.to_string())
}

/// The kind of a Kubernetes document.
fn kubernetes(text: &str) -> Option<&str> {
    let lines = || text.lines().map(|line| line.trim_end());
    lines().find(|line| line.starts_with("apiVersion:"))?;
    lines().find_map(|line| line.strip_prefix("kind:")).map(str::trim)
}
