//! The small commands: `sleep`, `printenv`, `env`, `cat`, `ls`, `mkdir`, `hostname`, `id`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

/// `sleep N[smhd]…`, `sleep infinity`; ends on TERM, also as a Pod's first process.
pub(crate) fn sleep(arguments: Vec<String>) -> Result<ExitCode, String> {
    let mut seconds = 0.0;
    for argument in &arguments {
        if argument == "infinity" || argument == "inf" {
            seconds = f64::INFINITY;
            continue;
        }
        let (digits, unit) = match argument.char_indices().last() {
            Some((at, 's')) => (&argument[..at], 1.0),
            Some((at, 'm')) => (&argument[..at], 60.0),
            Some((at, 'h')) => (&argument[..at], 3600.0),
            Some((at, 'd')) => (&argument[..at], 86_400.0),
            _ => (argument.as_str(), 1.0),
        };
        let number: f64 = digits.parse().map_err(|_| format!("invalid time interval '{argument}'"))?;
        seconds += number * unit;
    }
    if arguments.is_empty() {
        return Err("missing operand".into());
    }
    crate::runtime()?.block_on(async {
        let nap = async {
            match Duration::try_from_secs_f64(seconds) {
                Ok(time) => tokio::time::sleep(time).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = nap => Ok(ExitCode::SUCCESS),
            // As the signal would have ended it.
            () = crate::terminated() => Ok(ExitCode::from(128 + 15)),
        }
    })
}

/// `printenv [NAME…]`
pub(crate) fn printenv(arguments: Vec<String>) -> Result<ExitCode, String> {
    if arguments.is_empty() {
        return env(arguments);
    }
    let mut missing = false;
    for name in arguments {
        match std::env::var(&name) {
            Ok(value) => say(&value)?,
            Err(_) => missing = true,
        }
    }
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `env`
pub(crate) fn env(_: Vec<String>) -> Result<ExitCode, String> {
    for (name, value) in std::env::vars_os() {
        say(&format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{line}").map_err(|e| e.to_string())
}

/// `cat [FILE…]`
pub(crate) fn cat(arguments: Vec<String>) -> Result<ExitCode, String> {
    let mut out = io::stdout().lock();
    let files = if arguments.is_empty() { vec!["-".to_owned()] } else { arguments };
    let mut failed = false;
    for file in files {
        let copied = if file == "-" {
            io::copy(&mut io::stdin().lock(), &mut out)
        } else {
            std::fs::File::open(&file).and_then(|mut f| io::copy(&mut f, &mut out))
        };
        if let Err(e) = copied {
            eprintln!("cat: {file}: {e}");
            failed = true;
        }
    }
    out.flush().map_err(|e| e.to_string())?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `ls [-1aAl] [PATH…]`: names, one a line.
pub(crate) fn ls(arguments: Vec<String>) -> Result<ExitCode, String> {
    let all = arguments.iter().any(|a| a.starts_with('-') && a.contains(['a', 'A']));
    let mut paths: Vec<String> = arguments.into_iter().filter(|a| !a.starts_with('-')).collect();
    if paths.is_empty() {
        paths.push(".".into());
    }
    let mut failed = false;
    for path in paths {
        if std::path::Path::new(&path).is_file() {
            say(&path)?;
            continue;
        }
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                let mut names: Vec<String> =
                    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
                names.retain(|n| all || !n.starts_with('.'));
                names.sort();
                names.iter().try_for_each(|n| say(n))?;
            }
            Err(e) => {
                eprintln!("ls: {path}: {e}");
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `mkdir [-p] DIR…`
pub(crate) fn mkdir(arguments: Vec<String>) -> Result<ExitCode, String> {
    let parents = arguments.iter().any(|a| a == "-p");
    for path in arguments.iter().filter(|a| !a.starts_with('-')) {
        let made = if parents { std::fs::create_dir_all(path) } else { std::fs::create_dir(path) };
        made.map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `hostname [-i]`
pub(crate) fn hostname(arguments: Vec<String>) -> Result<ExitCode, String> {
    let name = crate::host_name();
    if arguments.iter().any(|a| a == "-i" || a == "-I") {
        let address = crate::resolver::addresses(&name)?;
        say(&address.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))?;
    } else {
        say(&name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `id [-u]`
pub(crate) fn id(arguments: Vec<String>) -> Result<ExitCode, String> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if arguments.iter().any(|a| a == "-u") {
        say(&user.to_string())?;
    } else {
        say(&format!("uid={user} gid={group}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
