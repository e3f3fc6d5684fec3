//! linkerd-retry.

mod backoff;
mod budget;
mod class;

pub use self::{
    backoff::{Backoff, Delays, InvalidBackoff},
    budget::{Budget, BudgetSettings, InvalidBudget},
    class::{Classifier, ResponseClass},
};
