// Threads that compute one step together: woken once per step, then held in step by barriers.
//
// Threads that wait spin for a moment and then sleep: an idle engine costs nothing, and where another
// process took a core, the thread it drove out can go on on the core of one that waits for it. Fewer
// than there are may be let compute, for what runs beside; the others then sleep.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

// So many threads of each pool compute at most, from the next step on.
inline std::atomic<int> thread_limit{1 << 11};

class Pool {
 public:
  explicit Pool(int num_threads) : num_threads_(num_threads) {
    for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { serve(i); });
  }

  ~Pool() {
    stopped_.store(true);
    wake();
    for (auto& thread : threads_) thread.join();
  }

  // Runs work(thread) on as many threads as may compute, the caller's included, and returns when all
  // are done.
  void run(const std::function<void(int)>& work) {
    num_used_ = std::clamp(thread_limit.load(), 1, num_threads_);
    work_ = &work;
    num_running_.store(num_used_ - 1);
    wake();
    work(0);
    for (int left; (left = num_running_.load(std::memory_order_acquire)) != 0;) await(num_running_, left);
  }

  // Returns once every thread that computes has come here.
  void barrier() {
    if (num_used_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (num_arrived_.fetch_add(1, std::memory_order_acq_rel) == num_used_ - 1) {
      num_arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      phase_.notify_all();
    } else {
      await(phase_, phase);
    }
  }

 private:
  static constexpr int kSpins = 2000;

  // Returns once the value is another.
  template <class T>
  static void await(const std::atomic<T>& value, T old) {
    for (int i = 0; i < kSpins; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
    value.wait(old, std::memory_order_acquire);
  }

  // Begins the next epoch. Its number carries how many threads it is for, so that a thread learns both
  // at once: one that is not needed and wakes late takes part in a later epoch once or not at all.
  void wake() {
    const uint32_t epoch = epoch_.load(std::memory_order_relaxed) >> kUsedBits;
    epoch_.store((epoch + 1) << kUsedBits | num_used_, std::memory_order_release);
    epoch_.notify_all();
  }

  void serve(int index) {
    for (uint32_t seen = 0;;) {
      await(epoch_, seen);
      seen = epoch_.load(std::memory_order_acquire);
      if (stopped_.load()) return;
      if (index >= static_cast<int>(seen & kUsedMask)) continue;
      (*work_)(index);
      num_running_.fetch_sub(1, std::memory_order_release);
      num_running_.notify_all();
    }
  }

  static constexpr uint32_t kUsedBits = 12, kUsedMask = (1u << kUsedBits) - 1;

  const int num_threads_;
  int num_used_ = 1;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<uint32_t> epoch_{0}, phase_{0};
  std::atomic<int> num_arrived_{0}, num_running_{0};
  std::atomic<bool> stopped_{false};
};
