//! `layout!` declares a struct that the kernel half writes and user space reads.

/// Declares a `repr(C)` struct of integers (and arrays of them) whose size is stated and whose bytes hold no padding,
/// both checked at compile time on both sides.
macro_rules! layout {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$fd:meta])* pub $field:ident: $ty:ty),+ $(,)? } size $size:expr) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fd])* pub $field: $ty),+ }
        const _: () = assert!(size_of::<$name>() == $size, "size");
        const _: () = assert!(0 $(+ size_of::<$ty>())+ == $size, "padding");
        // SAFETY: repr(C), integer fields only, and the asserts above rule out padding.
        #[cfg(not(target_arch = "bpf"))]
        unsafe impl aya::Pod for $name {}
    };
}
pub(crate) use layout;
