//! What the test's own program does inside a container: it is the only file of the image. Each command prints what it
//! found; its exit status is 0 unless it says otherwise.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// Runs the commands, separated by `;`.
pub fn main(arguments: &[String]) -> ! {
    for command in arguments.split(|argument| argument == ";") {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        run(&command);
    }
    std::process::exit(0)
}

fn run(command: &[&str]) {
    match command {
        ["say", text] => println!("{text}"),
        ["complain", text] => eprintln!("{text}"),
        ["environment", name] => println!("{name}={}", std::env::var(name).unwrap_or_default()),
        ["directory"] => println!("{}", std::env::current_dir().unwrap().display()),
        ["host-name"] => println!("{}", rustix::system::uname().nodename().to_string_lossy()),
        ["status", field] => {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            println!("{}", status.lines().find(|line| line.starts_with(field)).unwrap());
        }
        ["read", path] => println!("{path}: {}", outcome(fs::read_to_string(path))),
        // Not there, or nothing in it.
        ["hidden", path] => println!("{path}: {}", fs::read(path).unwrap_or_default().is_empty()),
        ["write", path, text] => println!("{path}: {}", outcome(fs::write(path, text).map(|()| "written"))),
        ["processes"] => {
            let mut found: Vec<u32> = fs::read_dir("/proc")
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
                .collect();
            found.sort_unstable();
            println!("{found:?}");
        }
        ["namespace"] => {
            let unshared =
                std::process::Command::new("/proc/self/exe").args(["inside", "unshare"]).output().unwrap();
            println!("namespace: {}", String::from_utf8_lossy(&unshared.stdout).trim());
        }
        ["unshare"] => {
            #[expect(deprecated, reason = "the safe form; no descriptors are unshared")]
            let result = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWUSER);
            println!("{}", outcome(result.map(|()| "made").map_err(Into::into)));
        }
        ["echo"] => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            println!("{text}");
        }
        ["terminal"] => {
            // Until a line comes the size is being set.
            std::io::stdin().read_line(&mut String::new()).unwrap();
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).unwrap();
            let name = rustix::termios::ttyname(std::io::stdout(), Vec::new()).unwrap();
            println!("{} {}x{}", name.to_string_lossy(), size.ws_col, size.ws_row);
            drop(fs::File::options().write(true).open("/dev/tty").unwrap());
        }
        ["serve", port] => {
            let listener = TcpListener::bind(("0.0.0.0", port.parse().unwrap())).unwrap();
            println!("listening");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let from = stream.peer_addr().unwrap().ip();
                writeln!(stream, "hello {from}").unwrap();
            }
        }
        ["get", address] => {
            let mut text = String::new();
            let result = TcpStream::connect(address).and_then(|mut stream| stream.read_to_string(&mut text));
            println!("{}", outcome(result.map(|_| text.trim())));
        }
        ["hold", path] => {
            let _held = fs::File::options().write(true).open(path).unwrap();
            println!("holding");
            wait();
        }
        ["wait"] => {
            println!("waiting");
            wait();
        }
        ["exit", code] => std::process::exit(code.parse().unwrap()),
        other => panic!("unknown command {other:?}"),
    }
}

fn wait() -> ! {
    loop {
        std::thread::park();
    }
}

fn outcome<T: AsRef<str>>(result: std::io::Result<T>) -> String {
    match result {
        Ok(text) => text.as_ref().trim().to_owned(),
        Err(error) => error.to_string(),
    }
}
