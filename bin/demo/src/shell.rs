//! `sh`: brush, a POSIX shell in Rust. Line editing is left to the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use brush_builtins::{BuiltinSet, ShellBuilderExt};
use brush_core::{Shell, SourceInfo};

/// `sh`, `sh -c COMMAND [NAME [ARGUMENT…]]`, `sh FILE [ARGUMENT…]`
pub(crate) fn main(arguments: Vec<String>) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let code = runtime.block_on(start(arguments))?;
    // Threads that wait for input must not hold the end up.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

async fn start(arguments: Vec<String>) -> Result<u8, String> {
    let mut rest = arguments.into_iter().peekable();
    let mut command = None;
    while let Some(flag) = rest.next_if(|a| a.starts_with('-') && a.len() > 1) {
        // Of -e, -x, -i, -l and their like only -c changes what is read.
        if flag.contains('c') && !flag.starts_with("--") {
            command = rest.next();
            if command.is_none() {
                return Err("-c: a command is missing".into());
            }
        }
    }
    let script = if command.is_none() { rest.next() } else { None };
    let name = if command.is_some() { rest.next() } else { script.clone() };
    let mut shell = Shell::builder()
        .default_builtins(BuiltinSet::BashMode)
        .shell_name(name.unwrap_or_else(|| "sh".into()))
        .shell_args(rest.collect())
        .build()
        .await
        .map_err(|e| e.to_string())?;
    if let Some(command) = command {
        return run(&mut shell, command).await.map(|(code, _)| code);
    }
    if let Some(file) = script {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        return run(&mut shell, text).await.map(|(code, _)| code);
    }
    read_lines(&mut shell).await
}

/// The exit status, and whether the shell shall end.
async fn run(shell: &mut Shell, text: String) -> Result<(u8, bool), String> {
    let params = shell.default_exec_params();
    let result = shell.run_string(text, &SourceInfo::default(), &params).await.map_err(|e| e.to_string())?;
    let ends = matches!(result.next_control_flow, brush_core::ExecutionControlFlow::ExitShell);
    Ok((u8::from(result.exit_code), ends))
}

async fn read_lines(shell: &mut Shell) -> Result<u8, String> {
    let prompt = std::io::stdin().is_terminal();
    let mut status = 0;
    let mut text = String::new();
    loop {
        if prompt {
            let sign = if text.is_empty() { "/ # " } else { "> " };
            print!("{sign}");
            std::io::stdout().flush().map_err(|e| e.to_string())?;
        }
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        if read.map_err(|e| e.to_string())? == 0 {
            return Ok(status);
        }
        text.push_str(&line);
        // An open quote, a `do` without its `done`: more lines belong to it.
        let whole = shell.parse_string(text.clone());
        if matches!(&whole, Err(e) if e.to_string().contains("end of input") || e.to_string().contains("unterminated"))
        {
            continue;
        }
        match run(shell, std::mem::take(&mut text)).await {
            Ok((code, true)) => return Ok(code),
            Ok((code, false)) => status = code,
            Err(why) => {
                eprintln!("sh: {why}");
                status = 2;
            }
        }
    }
}
