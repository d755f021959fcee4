// Threads that share the work of one evaluation and sleep otherwise.
//
// Waking a sleeping thread takes a fifth of the time of a small molecule's evaluation. So a helper
// stays awake for AWAKE after its work, but only while evaluations follow each other so fast.
//
// Work is a sequence of phases of independent items. Whoever is awake takes the next item; a phase
// ends when its items are done, not when all threads have arrived. So a thread that the system
// runs late costs its help, not a wait. Items never depend on who computes them.
//
// What an item throws, in whatever thread, comes out of run(): the items after it are counted and
// not worked on, so that all threads leave and the team can be used again.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

namespace mm {

class Team {
 public:
  static constexpr int MAX_PHASES = 64;
  using Work = void (*)(void* context, int phase, int item, int worker);

  ~Team() { stop(); }

  // Runs work(context, phase, item, worker) for all items of all phases, with workers 0 to
  // n_threads - 1; the caller is worker 0. Throws the first thing that an item threw. Where the
  // system gives no more threads, those that there are do the work.
  void run(Work work, void* context, const int* counts, int n_phases, int n_threads) {
    if (n_threads <= 1) {
      for (int p = 0; p < n_phases; p++)
        for (int i = 0; i < counts[p]; i++) work(context, p, i, 0);
      return;
    }
    ensure(n_threads - 1);
    failed_.store(false, std::memory_order_relaxed);
    work_ = work, context_ = context, n_phases_ = n_phases;
    for (int p = 0; p < n_phases; p++) {
      counts_[p] = counts[p];
      next_[p].store(0, std::memory_order_relaxed);
      left_[p].store(counts[p], std::memory_order_relaxed);
    }
    finished_.store(0, std::memory_order_relaxed);
    admitted_.store(n_threads, std::memory_order_seq_cst);
    started_.store(Clock::now(), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    generation_.notify_all();
    participate(0);
    admitted_.store(0, std::memory_order_seq_cst);
    // A helper inside finds no work left and leaves at once.
    for (int spins = 0; inside_.load(std::memory_order_seq_cst) != 0; spins++)
      spins < SPINS ? pause() : std::this_thread::yield();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds AWAKE{100};
  static constexpr int SPINS = 1600;  // about 40 microseconds

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  void attempt(int phase, int item, int worker) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      work_(context_, phase, item, worker);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) failure_ = std::current_exception();
    }
  }

  void participate(int worker) {
    for (int p = 0; p < n_phases_; p++) {
      for (int i; (i = next_[p].fetch_add(1, std::memory_order_relaxed)) < counts_[p];) {
        attempt(p, i, worker);
        if (left_[p].fetch_sub(1, std::memory_order_acq_rel) == 1) {
          finished_.store(p + 1, std::memory_order_release);
          finished_.notify_all();
        }
      }
      if (counts_[p] == 0) continue;
      for (int spins = 0, done; (done = finished_.load(std::memory_order_acquire)) <= p; spins++) {
        if (spins < SPINS) pause();
        else finished_.wait(done, std::memory_order_acquire);
      }
    }
  }

  void loop(int worker) {
    // Exceptions need memory of the thread's own, whose lack would end the process: ask for it now.
    (void)std::current_exception();
    uint32_t seen = 0;
    bool soon = true;  // whether the next evaluation is expected within AWAKE
    for (;;) {
      const Clock::time_point idle_since = Clock::now();
      while (soon && generation_.load(std::memory_order_acquire) == seen &&
             Clock::now() - idle_since < AWAKE)
        pause();
      generation_.wait(seen, std::memory_order_seq_cst);
      seen = generation_.load(std::memory_order_seq_cst);
      soon = started_.load(std::memory_order_relaxed) - idle_since < AWAKE;
      if (stopping_.load(std::memory_order_seq_cst)) return;
      inside_.fetch_add(1, std::memory_order_seq_cst);
      if (worker < admitted_.load(std::memory_order_seq_cst)) participate(worker);
      inside_.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  void ensure(int helpers) {
    if (!threads_.empty() && owner_ != getpid()) {
      // After a fork the threads exist only in the parent.
      for (auto& t : threads_) (void)new std::thread(std::move(t));
      threads_.clear();
      inside_.store(0);
    }
    owner_ = getpid();
    while (int(threads_.size()) < helpers) {
      const int worker = int(threads_.size()) + 1;
      try {
        threads_.emplace_back([this, worker] { loop(worker); });
      } catch (const std::system_error&) {
        return;
      }
    }
  }

  void stop() {
    if (!threads_.empty() && owner_ != getpid()) {
      for (auto& t : threads_) (void)new std::thread(std::move(t));
      return;
    }
    stopping_.store(true, std::memory_order_seq_cst);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    generation_.notify_all();
    for (auto& t : threads_) t.join();
  }

  Work work_ = nullptr;
  void* context_ = nullptr;
  int n_phases_ = 0, counts_[MAX_PHASES] = {};
  std::atomic<int> next_[MAX_PHASES], left_[MAX_PHASES];
  std::atomic<int> finished_{0}, admitted_{0}, inside_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stopping_{false}, failed_{false};
  std::exception_ptr failure_;  // written by whoever sets failed_, read when all have left
  std::vector<std::thread> threads_;
  std::atomic<Clock::time_point> started_{};
  pid_t owner_ = 0;
};

}  // namespace mm
