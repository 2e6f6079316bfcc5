//! Panics that are caught and told as what they mean: their own words are for nobody.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::thread;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Catches a panic of `read`, and keeps its message off stderr. Every other panic, of other threads meanwhile too, is printed as
/// ever.
pub(super) fn quietly<T>(read: impl FnOnce() -> T) -> thread::Result<T> {
    static HOOK: Once = Once::new();
    // The hook cannot be changed by a thread that is panicking; then this panic is printed too.
    if !thread::panicking() {
        HOOK.call_once(|| {
            let print = panic::take_hook();
            panic::set_hook(Box::new(move |told| {
                if !QUIET.get() {
                    print(told);
                }
            }));
        });
    }
    let outer = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(read));
    QUIET.set(outer);
    done
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[ignore = "plays for the test below, in a process of its own"]
    fn panics_of_both_kinds() {
        let caught = quietly(|| {
            assert!(thread::spawn(|| panic!("beside it")).join().is_err());
            panic!("in a guarded read");
        });
        assert!(caught.is_err());
        assert!(catch_unwind(|| panic!("behind it")).is_err());
    }

    #[test]
    fn no_panic_is_quiet_but_what_is_caught_here() {
        let play = concat!(module_path!(), "::panics_of_both_kinds");
        let play = play.split_once("::").expect("below the crate").1;
        let played = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "--ignored", "--nocapture", play])
            .output()
            .expect("it runs again");
        let said = String::from_utf8_lossy(&played.stderr);
        assert!(played.status.success() && said.contains("beside it") && said.contains("behind it"), "{said}");
        assert!(!said.contains("in a guarded read"), "{said}");
    }
}
