// Memory for weights and activations: 64-byte aligned pieces of large areas that start at a multiple of
// 2 MiB and are advised for huge pages, which are worth a third of the bandwidth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace nearfield {

// A piece of memory, all zeros at first. It keeps its area alive, and nothing else does.
struct Piece {
    std::shared_ptr<std::uint8_t> data;
    std::size_t bytes = 0;

    std::uint8_t* get() const { return data.get(); }
};

// Hands out pieces, small ones side by side in one area. Safe to use from several threads.
class Arena {
public:
    Piece take(std::size_t bytes);

private:
    std::mutex mutex_;
    std::shared_ptr<std::uint8_t> area_;
    std::size_t size_ = 0, used_ = 0;
};

}  // namespace nearfield
