//! `sealane check`: what is wrong with Corefiles and KubeProxyConfigurations, without starting anything.

use std::io::Read as _;
use std::path::Path;

use sealane_dns::corefile::{CorefileError, Position};
use sealane_dnsserver::{Settings, problems};

use crate::cli::{CheckArgs, Output};
use crate::config::sentence::plain;

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
    let kind = kubernetes(&text);
    if kind == Some(sealane_proxy::config::KIND) {
        return Ok(proxy(name, &text));
    }
    if kind == Some("ConfigMap") {
        return Err(format!(
            "{} is a ConfigMap; its Corefile is checked by `kubectl get configmap NAME -o jsonpath={{.data.Corefile}} \
             | sealane check -`",
            name.display()
        ));
    }
    if let Some(kind) = kind {
        return Err(format!(
            "{} is a {kind}, neither a Corefile nor a KubeProxyConfiguration; `kubectl apply --dry-run=server -f` checks those",
            name.display()
        ));
    }
    let mut settings = Settings::new(name);
    settings.default_port = port;
    problems(&settings, Some(text)).map_err(|e| e.to_string())
}

/// What is wrong with a KubeProxyConfiguration; what takes no effect is said on standard error.
fn proxy(name: &Path, text: &str) -> Vec<CorefileError> {
    let file: std::sync::Arc<str> = name.display().to_string().into();
    match sealane_proxy::config::parse(text) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| eprintln!("{file}: {warning}"));
            Vec::new()
        }
        Err(problems) => {
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let at =
                |line, column| Position { file: file.clone(), line: number(line), column: number(column) };
            let placed = problems.into_iter().map(|p| (at(p.line, p.column), plain(&p.message)));
            placed.map(|(at, message)| CorefileError { at, message }).collect()
        }
    }
}

/// The kind of a Kubernetes document.
fn kubernetes(text: &str) -> Option<&str> {
    let lines = || text.lines().map(|line| line.trim_end());
    lines().find(|line| line.starts_with("apiVersion:"))?;
    lines().find_map(|line| line.strip_prefix("kind:")).map(str::trim)
}
