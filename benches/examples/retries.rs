//! Requests through the layers of `linkerd-retry`, so many times, for valgrind to count: `retries TIMES [bare]`.
//!
//! The difference of two runs with different `TIMES`, divided by the difference, is what one request costs; less the
//! same with `bare`, it is what the layers do.

use std::{hint::black_box, time::Duration};

use benches::retries::{Call, Echo, call, stack};
use linkerd_retry::Deadline;
use tokio::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let times = args.first().and_then(|arg| arg.parse::<u32>().ok()).unwrap_or(1000);
    let deadline = Deadline::at(Instant::now().into_std() + Duration::from_hours(1));
    let request = Call { deadline, status: 200 };
    let (mut echo, mut stack) = (Echo, stack());
    for _ in 0..times {
        if args.get(1).is_some_and(|arg| arg == "bare") {
            call(&mut echo, black_box(request));
        } else {
            call(&mut stack, black_box(request));
        }
    }
}
