//! Rebuilds the crate when a migration is added or changed: refinery's macro reads the folder, cargo does not know.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
