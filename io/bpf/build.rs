//! Compiles the programs: clang is all that it takes.
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    if let Err(why) = compile() {
        println!("cargo:error={why}");
        std::process::exit(1);
    }
}

fn compile() -> Result<(), String> {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = std::env::var("OUT_DIR").map_err(|e| e.to_string())?;
    let endian = std::env::var("CARGO_CFG_TARGET_ENDIAN").map_err(|e| e.to_string())?;
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };
    let run = Command::new(&clang)
        .args([
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-target",
            target,
            "-c",
            "src/bpf/services.c",
            "-o",
        ])
        .arg(PathBuf::from(out).join("services.o"))
        // The object is the same wherever it is built.
        .arg("-fdebug-prefix-map=.=")
        .output();
    match run {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{clang} failed: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!(
            "{clang}: {error}; the eBPF programs need clang (apt-get install clang, dnf install clang, apk add clang), or CLANG=/path/to/clang; build without the feature ebpf to do without"
        )),
    }
}
