//! For tests: system calls that a thread is not allowed, as under a container's seccomp profile.
#![allow(unsafe_code)]

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
};

/// Runs `work` on a thread of its own, whose calls of `number` fail with `errno`.
pub(crate) fn without<R: Send>(number: i64, errno: i32, work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| {
            refuse(number, errno);
            work()
        });
        refused
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Installs a filter for the calling thread, for ever.
fn refuse(number: i64, errno: i32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let number = u32::try_from(number).unwrap();
    let errno = SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let mut filter = [
        // The number of the call is the first field of what a filter sees.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number),
        step(BPF_RET | BPF_K, 0, 0, errno),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: it takes numbers only.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(promised, 0);
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, 0);
    // SAFETY: the kernel reads the program, which points to `filter`; both are locals.
    let installed =
        unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    assert_eq!(installed, 0, "{}", std::io::Error::last_os_error());
}
