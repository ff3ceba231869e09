//! `sealane image`: works on the data directory; a running `up` sees the change at once.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;

use sealane_images::{Builtin, Config, Image, ImageStore, Progress, PullOptions};

use crate::cli::{ImageCommand, Output};
use crate::config::data_dir;

/// Opens the images of a data directory, the built-in ones among them.
pub(crate) fn open(data: &Path) -> Result<ImageStore, String> {
    let mut store = ImageStore::open(&data.join("images")).map_err(|e| e.to_string())?;
    // The file that runs, also where its name has been given to a newer one since.
    let program = std::env::current_exe().map_err(|e| format!("this program's own file: {e}"))?;
    let path = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    let demo = Builtin {
        reference: "sealane/demo".into(),
        commands: sealane_demo::PROGRAMS.iter().map(|p| p.name.to_owned()).collect(),
        program: program.clone(),
        config: Config { cmd: vec!["sh".into()], env: path.clone(), ..Config::default() },
    };
    let own = Builtin {
        reference: "sealane/sealane".into(),
        commands: Vec::new(),
        program,
        config: Config { entrypoint: vec!["/bin/sealane".into()], env: path, ..Config::default() },
    };
    for builtin in [demo, own] {
        store.add_builtin(&builtin).map_err(|e| e.to_string())?;
    }
    Ok(store)
}

/// Runs one of the commands.
pub(crate) fn run(command: ImageCommand) -> Result<(), String> {
    match command {
        ImageCommand::Load { files, data } => load(&open(&data_dir(data.data_dir.as_deref())?)?, &files),
        ImageCommand::Pull { reference, plain_http, insecure, data } => {
            let store = open(&data_dir(data.data_dir.as_deref())?)?;
            let options = PullOptions { plain_http, insecure, credentials: None };
            pull(&store, &reference, &options)
        }
        ImageCommand::List { output, data } => list(&open(&data_dir(data.data_dir.as_deref())?)?, output),
        ImageCommand::Remove { reference, data } => {
            let store = open(&data_dir(data.data_dir.as_deref())?)?;
            store.remove(&reference).map_err(|e| e.to_string())?;
            println!("removed {reference}");
            Ok(())
        }
    }
}

fn load(store: &ImageStore, files: &[std::path::PathBuf]) -> Result<(), String> {
    for file in files {
        let loaded = if file.as_os_str() == "-" {
            store.load("standard input", &mut std::io::stdin().lock())
        } else {
            let name = file.display().to_string();
            let mut input = std::fs::File::open(file).map_err(|e| format!("{name}: {e}"))?;
            store.load(&name, &mut input)
        };
        for image in loaded.map_err(|e| e.to_string())? {
            let names = if image.references.is_empty() { &image.id } else { &image.references.join(" ") };
            println!("loaded {names}");
        }
    }
    Ok(())
}

fn pull(store: &ImageStore, reference: &str, options: &PullOptions) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let bars = Bars::default();
    let image = runtime
        .map_err(|e| e.to_string())?
        .block_on(store.pull(reference, options, &|p| bars.show(p)))
        .map_err(|e| e.to_string());
    bars.end();
    println!("pulled {} ({})", reference, short(&image?));
    Ok(())
}

/// A bar for the layer that comes in; lines where no terminal is.
#[derive(Default)]
struct Bars(Mutex<Option<(String, u64)>>);

impl Bars {
    fn show(&self, progress: Progress) {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let terminal = std::io::stderr().is_terminal();
        match progress {
            Progress::Layer { digest, size } => *state = Some((digest, size)),
            Progress::Bytes { done, .. } => {
                if let (Some((digest, size)), true) = (&*state, terminal) {
                    let part = usize::try_from(done * 30 / (*size).max(1)).unwrap_or(30).min(30);
                    eprint!(
                        "\r{} [{}{}] {:>6.1} of {:.1} MB",
                        &digest[..digest.len().min(19)],
                        "#".repeat(part),
                        " ".repeat(30 - part),
                        mega(done),
                        mega(*size)
                    );
                    let _ = std::io::stderr().flush();
                }
            }
            Progress::Unpacked { digest } => {
                let clear = if terminal { "\r\x1b[K" } else { "" };
                eprintln!("{clear}{} done", &digest[..digest.len().min(19)]);
            }
        }
    }

    fn end(&self) {
        let state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.is_some() && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn short(image: &Image) -> &str {
    let hex = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
    &hex[..hex.len().min(12)]
}

fn list(store: &ImageStore, output: Option<Output>) -> Result<(), String> {
    let images = store.list().map_err(|e| e.to_string())?;
    let mut out = std::io::stdout().lock();
    let written = match output {
        Some(Output::Json) => {
            let rows: Vec<_> = images
                .iter()
                .map(|i| {
                    serde_json::json!({"id": i.id, "references": i.references, "digests": i.digests, "size": i.size,
                        "pinned": i.pinned, "builtIn": i.program.is_some()})
                })
                .collect();
            writeln!(out, "{}", serde_json::Value::Array(rows))
        }
        None => writeln!(out, "{:<56} {:<12} {:>9}", "REFERENCE", "ID", "SIZE").and_then(|()| {
            images.iter().try_for_each(|image| {
                let name = image.references.first().map_or("<none>", String::as_str);
                let size = format!("{:.1} MB", mega(image.size));
                let note = if image.program.is_some() { "  built in" } else { "" };
                writeln!(out, "{name:<56} {:<12} {size:>9}{note}", short(image))
            })
        }),
    };
    match written {
        // `sealane image list | head` is no error.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.to_string()),
        _ => Ok(()),
    }
}
