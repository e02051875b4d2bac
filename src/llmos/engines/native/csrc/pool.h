// Threads that compute one step together: woken once per step, then held in step by barriers.
//
// Inside a step threads spin for a moment and then yield; between steps they sleep, so that idle
// engines cost nothing and other processes get the cores.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

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

  int num_threads() const { return num_threads_; }

  // Runs work(thread) on every thread, the caller's included, and returns when all are done.
  void run(const std::function<void(int)>& work) {
    work_ = &work;
    num_running_.store(num_threads_ - 1);
    wake();
    work(0);
    wait_until([this] { return num_running_.load(std::memory_order_acquire) == 0; });
  }

  // Returns once every thread has come here.
  void barrier() {
    if (num_threads_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (num_arrived_.fetch_add(1, std::memory_order_acq_rel) == num_threads_ - 1) {
      num_arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      wait_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
    }
  }

 private:
  static constexpr int kSpins = 4000;

  template <class Condition>
  static void wait_until(Condition condition) {
    for (int i = 0; !condition(); ++i) {
      if (i < kSpins)
        _mm_pause();
      else
        std::this_thread::yield();
    }
  }

  void wake() {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }

  void serve(int index) {
    uint32_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++i) _mm_pause();
      epoch_.wait(seen, std::memory_order_acquire);
      seen = epoch_.load(std::memory_order_acquire);
      if (stopped_.load()) return;
      (*work_)(index);
      num_running_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int num_threads_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<uint32_t> epoch_{0}, phase_{0};
  std::atomic<int> num_arrived_{0}, num_running_{0};
  std::atomic<bool> stopped_{false};
};
