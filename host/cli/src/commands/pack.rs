//! `ostrakon pack`.

use super::{home, size, write_json};
use crate::args::PackArgs;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::pack::{self, PackOptions};
use std::io::{self, Write};

pub(crate) fn run(args: PackArgs, json: bool) -> Result<(), Problem> {
    let in_store = args.out.is_none();
    let options = PackOptions {
        out: args.out,
        shards: usize::from(args.shards),
        plugins: args.plugins.plugins,
        allow_unsigned: args.allow_unsigned,
        allow_unknown: args.allow_unknown_signer,
    };
    let progress = Progress::new(json);
    let packed = pack::pack(&args.source, &options, &home()?, &|event| progress.show(event));
    progress.finish();
    let packed = packed?;
    if json {
        return write_json(&packed);
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    let shards = if packed.shards == 1 { "1 shard".to_owned() } else { format!("{} shards", packed.shards) };
    let name = style.strong(&packed.model);
    writeln!(out, "{name}: {}, {shards}, {:.1} s", size(packed.bytes), packed.took_ms / 1e3)?;
    writeln!(out, "  {}    {}", style.faint("path"), packed.path)?;
    writeln!(out, "  {}  {}", style.faint("digest"), packed.package)?;
    writeln!(out, "  {}  {}", style.faint("signed"), packed.signed_by)?;
    let word = if in_store { &packed.model } else { &packed.path };
    writeln!(out, "run it: ostrakon run {word} --text 'A man is eating food.'")?;
    Ok(())
}
