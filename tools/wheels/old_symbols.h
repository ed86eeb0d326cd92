// glibc 2.29 gave these a second version, which differs in how errors are reported to SVID programs alone. The first
// one makes wheels for older systems.
#if defined(__x86_64__)
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
__asm__(".symver pow, pow@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver exp, exp@GLIBC_2.17");
__asm__(".symver log, log@GLIBC_2.17");
__asm__(".symver pow, pow@GLIBC_2.17");
#endif
