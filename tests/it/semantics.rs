//! Properties of the pure core, over random small worlds: what is compiled means what DESIGN §5 says, plans arrive and never
//! leak on their way, order never matters, and a small change costs little.
//!
//! `PROPTEST_CASES` raises the number of cases. Deliberately absent: kernels, Git and clusters; real packets are `lab`'s.

mod agreement;
mod asserted;
mod cost;
mod damage;
mod detoured;
pub(crate) mod evaluate;
mod explained;
mod foreign;
mod generate;
mod oracle;
mod previewed;
mod published;
mod transition;
mod world;
