#include "memory.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace nearfield {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::size_t kArea = std::size_t{32} << 20;
constexpr std::size_t kLine = 64;

std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

#if defined(__SANITIZE_ADDRESS__)

// Under the address sanitizer each piece is an allocation of its own, with guards at its ends.
std::shared_ptr<std::uint8_t> new_area(std::size_t bytes) {
    void* memory = std::aligned_alloc(kLine, bytes);
    if (!memory) throw std::bad_alloc();
    std::memset(memory, 0, bytes);
    return {static_cast<std::uint8_t*>(memory), [](std::uint8_t* data) { std::free(data); }};
}

#else

std::shared_ptr<std::uint8_t> new_area(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(memory);
    const std::uintptr_t aligned = round_up(start, kHuge);
    if (aligned > start) munmap(memory, aligned - start);
    if (start + kHuge > aligned) munmap(reinterpret_cast<void*>(aligned + bytes), start + kHuge - aligned);
    std::uint8_t* data = reinterpret_cast<std::uint8_t*>(aligned);
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);  // refused where the system has none: slower, and no error
#endif
    return {data, [bytes](std::uint8_t* area) { munmap(area, bytes); }};
}

#endif

}  // namespace

Piece Arena::take(std::size_t bytes) {
    const std::size_t need = round_up(bytes ? bytes : 1, kLine);
#if defined(__SANITIZE_ADDRESS__)
    return {new_area(need), bytes};
#endif
    if (need >= kArea / 2) return {new_area(round_up(need, kHuge)), bytes};
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!area_ || size_ - used_ < need) {
        area_ = new_area(kArea);
        size_ = kArea;
        used_ = 0;
    }
    std::uint8_t* data = area_.get() + used_;
    used_ += need;
    return {std::shared_ptr<std::uint8_t>(area_, data), bytes};
}

}  // namespace nearfield
