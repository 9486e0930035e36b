//! What `ostrakon transcript` and `ostrakon trace` need alike: a run of this machine, to be made again.

use super::{expect_other_file, home, policy, texts};
use crate::args::RerunArgs;
use crate::problem::Problem;
use ostrakon_node::{Request, Rerun, RunOptions, SignedReceipt, load_or_create_key, receipt, store};

/// The run that these arguments name.
pub(super) fn prepare(args: &RerunArgs) -> Result<Rerun, Problem> {
    let home = home()?;
    let policy = policy(&home, &args.trust)?;
    let key = load_or_create_key(&home)?;
    let mut signed: SignedReceipt = receipt::read(&args.receipt)?;
    expect_other_file(&args.out, &[&args.receipt])?;
    if let Some(texts) = texts(&args.texts)? {
        signed.request = Some(Request::of_texts(signed.receipt.package, texts));
    }
    if signed.request.is_none() {
        return Err(Problem::usage("the receipt is without its request, which must be run again".into())
            .hint("give the request's texts with --text or --input"));
    }
    let directory = store::locate_or_find(&home, args.package.as_deref(), &signed.receipt.package)?;
    Ok(Rerun { signed, directory, policy, home, options: RunOptions::default(), key })
}
