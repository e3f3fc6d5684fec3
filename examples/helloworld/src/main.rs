//! `helloworld`: the hello, world or api server of Linkerd's tutorials. `helloworld -help` lists its flags.

use std::{env, error::Error, future::pending, iter, process::ExitCode};

use helloworld::{Flags, Options, ServeError, Usage, serve};

fn main() -> ExitCode {
    let args = env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let options = match Flags::parse(args, |name| env::var(name).ok()) {
        Ok(Flags::Serve(options)) => options,
        Ok(Flags::Help) => {
            print!("{}", Flags::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(err) => {
            eprintln!("{err}");
            if matches!(err, Usage::Grpc | Usage::Protocol(_)) {
                return ExitCode::FAILURE;
            }
            eprint!("{}", Flags::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let causes = iter::successors(err.source(), |&cause| cause.source());
            let text = causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"));
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(options: Options) -> Result<(), ServeError> {
    let given = options.addr.clone();
    let server = serve(options).await?;
    // The line that the original prints, but for port 0: there the port is what one wants to know.
    let port_taken = given.ends_with(":0");
    println!("starting HTTP server on {}", if port_taken { server.addr().to_string() } else { given });
    pending().await
}
