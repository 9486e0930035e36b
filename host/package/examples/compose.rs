//! `compose BLOCK.wasm REFERENCE.wasm OUT.wasm`: a block that runs without native arithmetic.

use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [block, reference, out] = arguments.as_slice() else {
        return Err("usage: compose BLOCK.wasm REFERENCE.wasm OUT.wasm".into());
    };
    fs::write(out, ostrakon_package::component::compose(&fs::read(block)?, &fs::read(reference)?)?)?;
    Ok(())
}
