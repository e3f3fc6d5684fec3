//! linkerd-retry.

mod backoff;
mod budget;
mod class;
mod dice;
pub mod requeue;
pub mod retry;
mod tally;
pub mod timeout;

pub use self::{
    backoff::{Backoff, Delays, InvalidBackoff},
    budget::{Budget, BudgetSettings, InvalidBudget},
    class::{Classifier, ResponseClass},
    tally::PER_REQUEST_BUCKETS,
};
