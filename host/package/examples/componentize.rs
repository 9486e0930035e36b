//! `componentize CORE.wasm OUT.wasm`: a component of a core module.

use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [core, out] = arguments.as_slice() else { return Err("usage: componentize CORE.wasm OUT.wasm".into()) };
    fs::write(out, ostrakon_package::component::componentize(&fs::read(core)?)?)?;
    Ok(())
}
