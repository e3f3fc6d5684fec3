//! Explanations: how a name is bound, step by step.

/// Every step of a binding.
#[derive(Clone, Debug)]
pub struct Delegation;
