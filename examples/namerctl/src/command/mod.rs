//! What each command does.

mod apply;
mod check;
mod delegate;
mod guard;
mod history;
mod original;
mod plan;
mod watch;

use std::env;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    base::Base,
    cli::{Cli, DtabArgs, DtabCommand, Global},
    client::{Client, Tls},
    error::{Error, Outcome},
    namerd::Namerd,
};

/// Does what the command line says.
pub(crate) async fn run(global: &Global, args: DtabArgs) -> Result<Outcome, Error> {
    let json = args.output.json;
    if args.command.as_ref().and_then(DtabCommand::name) == Some("") {
        return Err(Error::Other("empty dtab name".into()));
    }
    let connect = || connect(global, args.reason.clone());
    match args.command.expect("without one there is help") {
        DtabCommand::List(list) => original::list(connect, &list, json).await,
        DtabCommand::Get(get) => original::get(connect, &get, json).await,
        DtabCommand::Create(of) => original::create(connect, &of).await,
        DtabCommand::Update(update) => original::update(connect, &update).await,
        DtabCommand::Delete(of) => original::delete(connect, &of).await,
        DtabCommand::Apply(args) => apply::apply(connect, &args, &tls(global), json).await,
        DtabCommand::Check(args) => check::check(connect, &args, json).await,
        DtabCommand::Delegate(args) => delegate::delegate(connect, &args, json).await,
        DtabCommand::Diff(args) => history::compare(connect, &args, json).await,
        DtabCommand::History(args) => history::show(connect, &args, json).await,
        DtabCommand::Plan(args) => plan::plan(connect, &args, &tls(global), json).await,
        DtabCommand::Rollback(args) => history::rollback(connect, &args, json).await,
        DtabCommand::Watch(args) => watch::watch(connect, &args, json).await,
    }
}

/// The namerd that the flags, the environment and the files of settings tell.
fn connect(global: &Global, reason: Option<String>) -> Result<Namerd, Error> {
    let base = Base::find(global.base_url.as_deref(), global.config.as_deref())?;
    let token = global.token.clone().or_else(|| env::var("NAMERCTL_TOKEN").ok()).filter(|token| !token.is_empty());
    Namerd::new(Client::new(base, &tls(global), token.as_deref())?, reason)
}

fn tls(global: &Global) -> Tls {
    Tls { ca: global.ca.clone(), cert: global.cert.clone(), key: global.key.clone() }
}

/// The script that completes command lines in a shell.
pub(crate) fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "namerctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
