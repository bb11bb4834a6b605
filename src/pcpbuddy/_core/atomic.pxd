# Atomics: the compiler's __atomic_* (Cython has no libc.stdatomic).
#
# Page words, block owners and types are read without the lock that guards their
# writers (rfc.md P-100, P-102), so every access to them goes through here.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t


cdef extern from *:
    """
    #define pb_load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define pb_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define pb_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define pb_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define pb_xchg(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
    static inline __attribute__((always_inline, unused)) int pb_take(uint32_t *p, uint32_t v) {
        uint32_t old = 0;
        return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    }
    #define pb_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
    #define pb_cas(p, old, v) \
        __atomic_compare_exchange_n((p), (old), (v), 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)
    #define pb_load_seq(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define pb_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #if defined(__x86_64__) || defined(__i386__)
    #define pb_relax() __builtin_ia32_pause()
    #else
    #define pb_relax() __asm__ __volatile__("" ::: "memory")
    #endif
    /* Add where there is one writer at a time, or where a lost update is no harm (two threads on one CPU's counter):
       never torn, no bus lock. One instruction where the processor has one. */
    #if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    #define pb_bump(p, n) __asm__("add%z0 %1, %0" : "+m"(*(p)) : "er"((__typeof__(*(p)))(n)) : "cc")
    #else
    #define pb_bump(p, n) __atomic_store_n((p), __atomic_load_n((p), __ATOMIC_RELAXED) + (n), __ATOMIC_RELAXED)
    #endif
    #define pb_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_RELAXED)
    #define pb_clear(p, v) __atomic_fetch_and((p), ~(uint32_t)(v), __ATOMIC_RELAXED)
    #define pb_unlikely(x) __builtin_expect(!!(x), 0)
    #define pb_likely(x) __builtin_expect(!!(x), 1)
    """
    uint32_t load32 "pb_load"(uint32_t *p) noexcept nogil
    void store32 "pb_store"(uint32_t *p, uint32_t v) noexcept nogil
    uint16_t load16 "pb_load"(uint16_t *p) noexcept nogil
    void store16 "pb_store"(uint16_t *p, uint16_t v) noexcept nogil
    uint8_t load8 "pb_load"(uint8_t *p) noexcept nogil
    void store8 "pb_store"(uint8_t *p, uint8_t v) noexcept nogil
    uint8_t load8_ordered "pb_load_seq"(uint8_t *p) noexcept nogil
    void fence "pb_fence"() noexcept nogil
    int64_t load64 "pb_load"(int64_t *p) noexcept nogil
    int64_t add64 "pb_add"(int64_t *p, int64_t v) noexcept nogil
    int32_t loadi32 "pb_load"(int32_t *p) noexcept nogil
    int32_t addi32 "pb_add"(int32_t *p, int32_t v) noexcept nogil
    void storei32 "pb_store"(int32_t *p, int32_t v) noexcept nogil
    void bump "pb_bump"(uint64_t *p, int64_t n) noexcept nogil
    void bumpi64 "pb_bump"(int64_t *p, int64_t n) noexcept nogil
    void bumpi32 "pb_bump"(int32_t *p, int32_t n) noexcept nogil
    void set_bits "pb_or"(uint32_t *p, uint32_t v) noexcept nogil
    void clear_bits "pb_clear"(uint32_t *p, uint32_t v) noexcept nogil
    bint cas32 "pb_cas"(uint32_t *p, uint32_t *old, uint32_t v) noexcept nogil
    uint32_t exchange32 "pb_xchg"(uint32_t *p, uint32_t v) noexcept nogil
    bint take32 "pb_take"(uint32_t *p, uint32_t v) noexcept nogil
    void release32 "pb_release"(uint32_t *p, uint32_t v) noexcept nogil
    void relax "pb_relax"() noexcept nogil
    bint unlikely "pb_unlikely"(bint x) noexcept nogil
    bint likely "pb_likely"(bint x) noexcept nogil
