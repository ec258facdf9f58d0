# The PVH entry: 32-bit, no paging, %ebx has the start info. Gives the first processor
# a stack and goes to C++.
  .section .note.pvh, "a"
  .align 4
  .long 4, 4, 18        # owner's length, value's length, physical 32-bit entry
  .asciz "Xen"
  .long start

  .text
  .globl start
start:
  cli
  mov $stack_end, %esp
  push %ebx
  call guest_main
1:
  hlt
  jmp 1b

  .bss
  .align 16
  .skip 16384
stack_end:

  .section .note.GNU-stack, "", @progbits
