// The machine as a program without an operating system sees it: ports, memory.
#pragma once

#include <stddef.h>
#include <stdint.h>

inline void out8(uint16_t port, uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
inline void out16(uint16_t port, uint16_t value) {
  asm volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}
inline void out32(uint16_t port, uint32_t value) {
  asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}
inline uint8_t in8(uint16_t port) {
  uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
inline uint32_t in32(uint16_t port) {
  uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

template <class T>
inline T read_at(uint32_t address) {
  return *reinterpret_cast<volatile T*>(address);
}
template <class T>
inline void write_at(uint32_t address, T value) {
  *reinterpret_cast<volatile T*>(address) = value;
}

// Nothing before is seen after what follows, by compiler or processor.
inline void fence() { asm volatile("lock; addl $0, (%%esp)" : : : "memory"); }

// Memory that nobody else uses, from the end of the image on.
uint8_t* take_memory(uint32_t bytes, uint32_t alignment);

extern "C" void* memset(void* to, int value, size_t count);
extern "C" void* memcpy(void* to, const void* from, size_t count);
