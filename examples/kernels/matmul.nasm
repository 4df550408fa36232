; C = A^T B in tiles of 128 x 128 x 512: A is [512, 256], B [512, 1024], C [256, 1024].
;
; Two copies of every buffer rotate, so that the next tiles are loaded while the tensor engine works on these, and a bank
; is evicted while the next one is filled. In each stream r0 counts what it has done; every wait points back in time.
.model "matmul"
.target trn1
.semaphore a      ; tiles of A that were loaded
.semaphore b      ; tiles of B
.semaphore pe     ; multiplications
.semaphore act    ; evicted banks
.semaphore c      ; stored tiles of C
.variable "A" input f32 [512, 256]
.variable "B" input f32 [512, 1024]
.variable "C" output f32 [256, 1024]

.queue sp
  reg_move r0, -1                ; number of this load - 1: the multiplication that frees its buffer
  reg_move r1, 0                 ; buffer of A
  reg_move r2, 0                 ; buffer of B
  reg_move r3, 0                 ; row of tiles m
  reg_move r4, 0                 ; columns of A: 128 m
rows:
  reg_move r5, 0                 ; column of tiles n
  reg_move r6, 0                 ; columns of B: 512 n
columns:
  reg_move r7, 0                 ; step k
  reg_move r8, 0                 ; 128 k rows of A
  reg_add_register r8, r8, r4
  reg_move r9, 0                 ; 128 k rows of B
  reg_add_register r9, r9, r6
steps:
  wait(pe >= r0) dma_copy ring a dst sbuf f32 [0:128][r1 : 128] src dram f32 @A [r8 : 128 step 256, 128] signal(a)
  dma_copy ring b dst sbuf f32 [0:128][r2 + 256 : 512] src dram f32 @B [r9 : 128 step 1024, 512] signal(b)
  reg_add r0, r0, 1
  reg_rotate r1, 128, 256
  reg_rotate r2, 512, 1024
  reg_add r8, r8, 32768
  reg_add r9, r9, 131072
  reg_add r7, r7, 1
  branch_less r7, 4, steps
  reg_add r6, r6, 512
  reg_add r5, r5, 1
  branch_less r5, 2, columns
  reg_add r4, r4, 128
  reg_add r3, r3, 1
  branch_less r3, 2, rows

.queue pe
  reg_move r0, 1                 ; loads that this multiplication needs
  reg_move r1, 0                 ; buffer of A
  reg_move r2, 0                 ; buffer of B
  reg_move r3, 0                 ; bank
  reg_move r4, -1                ; number of this tile - 1: the eviction that frees its bank
tiles:
  reg_move r5, 0                 ; step k; the first one overwrites what the bank held
steps:
  wait(a >= r0, b >= r0, act >= r4) nc_matmul dst psum f32 [0:128][r3 : 512] stationary sbuf f32 [0:128][r1 : 128] moving sbuf f32 [0:128][r2 + 256 : 512] {accumulate = r5} signal(pe)
  reg_add r0, r0, 1
  reg_rotate r1, 128, 256
  reg_rotate r2, 512, 1024
  reg_add r5, r5, 1
  branch_less r5, 4, steps
  reg_rotate r3, 512, 1024
  reg_add r4, r4, 1
  branch_less r4, 3, tiles

.queue act
  reg_move r0, 4                 ; multiplications until this tile is complete
  reg_move r1, -1                ; the store that frees the buffer of results
  reg_move r2, 0                 ; bank, and buffer of results
tiles:
  wait(pe >= r0, c >= r1) activation dst sbuf f32 [0:128][r2 + 1280 : 512] data psum f32 [0:128][r2 : 512] signal(act)
  reg_add r0, r0, 4
  reg_rotate r2, 512, 1024
  reg_add r1, r1, 1
  branch_less r1, 3, tiles

.queue pool
  reg_move r0, 0                 ; tile
  reg_move r1, 0                 ; buffer of results
  reg_move r2, 0                 ; first element of C in the row of tiles
rows:
  reg_move r3, 0                 ; columns of C
columns:
  reg_move r4, 0
  reg_add_register r4, r2, r3
  wait(act >= r0 + 1) dma_copy ring c dst dram f32 @C [r4 : 128 step 1024, 512] src sbuf f32 [0:128][r1 + 1280 : 512] signal(c)
  reg_add r0, r0, 1
  reg_rotate r1, 512, 1024
  reg_add r3, r3, 512
  branch_less r3, 1024, columns
  reg_add r2, r2, 131072
  branch_less r2, 262144, rows
