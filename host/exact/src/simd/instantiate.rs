//! One body, compiled once for each level.

/// `fn name(level, arguments) -> result = body;` makes `name` call an instance of `body` that was
/// compiled for the instructions of `level`. `body` must be `#[inline(always)]`, and so must all it
/// calls, or it would be compiled for the target's least machine.
macro_rules! instantiate {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:path;)*) => {
        $(
            $(#[$meta])*
            #[allow(unsafe_code, clippy::too_many_arguments)]
            pub(crate) fn $name(level: $crate::simd::level::Proven, $($argument: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2")]
                    fn avx2($($argument: $type),*) $(-> $result)? {
                        $body($($argument),*)
                    }
                    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
                    fn avx512($($argument: $type),*) $(-> $result)? {
                        $body($($argument),*)
                    }
                    match level.level() {
                        $crate::simd::level::Level::Scalar => $body($($argument),*),
                        // SAFETY: a proven level is one that this machine was seen to have.
                        $crate::simd::level::Level::Avx2 => unsafe { avx2($($argument),*) },
                        // SAFETY: likewise.
                        $crate::simd::level::Level::Avx512 => unsafe { avx512($($argument),*) },
                    }
                }
                #[cfg(not(target_arch = "x86_64"))]
                {
                    let _ = level;
                    $body($($argument),*)
                }
            }
        )*
    };
}
pub(crate) use instantiate;
