//! Commands on containers that are there. Here is what the cases share.

mod states;
mod update;
mod views;

pub fn cases() -> Vec<(&'static str, crate::Case)> {
    [states::cases(), update::cases(), views::cases()].concat()
}
