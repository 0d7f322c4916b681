//! Devices that `hotset bundle` knows by name, with the source of each figure.
//!
//! Memory is what an app may use, not what the device has. Storage is for reads of whole experts (hundreds of kilobytes and more) at random
//! places, a few at a time, past the page cache. Where such reads were not measured, 0.59 of the sequential speed that the standard
//! promises is taken: the ratio of 2.46 GB/s, measured so on a phone with UFS 4.0, to the 4.2 GB/s of its standard.

/// A device. Sizes in GiB, speeds in GB/s.
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// In words.
    pub(super) title: &'static str,
    pub(super) ram: f64,
    /// Memory of a GPU of its own, with its bandwidth.
    pub(super) vram: Option<(f64, f64)>,
    /// Bandwidth of `ram`.
    pub(super) bandwidth: f64,
    pub(super) flash: f64,
    pub(super) source: &'static str,
}

/// By kind, then by memory.
pub(super) const TABLE: [Entry; 11] = [
    Entry {
        name: "iphone-14-pro",
        title: "iPhone 14 Pro, 6 GB",
        ram: 2.25,
        vram: None,
        bandwidth: 51.2,
        flash: 1.6,
        source: "memory: 37.5 % of 6 GB, the share iPadOS 26.4 leaves an app without entitlements (developer.apple.com/forums/thread/826325); \
                 bandwidth: LPDDR5-6400, 64 bit; storage: measured on a 14 Pro Max",
    },
    Entry {
        name: "phone-8gb",
        title: "Android phone with 8 GB, UFS 3.1 (such as Pixel 8)",
        ram: 4.0,
        vram: None,
        bandwidth: 51.2,
        flash: 1.24,
        source: "memory: half, what large apps get in the foreground; bandwidth: LPDDR5-6400, 64 bit; storage: 0.59 × the 2.1 GB/s of UFS 3.1",
    },
    Entry {
        name: "pixel-8",
        title: "Pixel 8, 8 GB",
        ram: 4.0,
        vram: None,
        bandwidth: 68.3,
        flash: 1.24,
        source: "memory: half; bandwidth: LPDDR5X-8533, 64 bit; storage: 0.59 × the 2.1 GB/s of UFS 3.1",
    },
    Entry {
        name: "oneplus-15r",
        title: "OnePlus 15R, 12 GB, UFS 4",
        ram: 6.0,
        vram: None,
        bandwidth: 76.8,
        flash: 2.46,
        source: "memory: half; bandwidth: LPDDR5X-9600, 64 bit; storage: measured with direct reads, cold (BigMoeOnEdge)",
    },
    Entry {
        name: "snapdragon-8-elite",
        title: "phone with Snapdragon 8 Elite, 16 GB, UFS 4",
        ram: 8.0,
        vram: None,
        bandwidth: 76.8,
        flash: 2.46,
        source: "memory: the limit of PowerInfer's measurements on it; bandwidth: LPDDR5X-9600, 64 bit; storage: as measured on a OnePlus 15R",
    },
    Entry {
        name: "macbook-air-m2",
        title: "MacBook Air M2, 8 GB",
        ram: 5.3,
        vram: None,
        bandwidth: 100.0,
        flash: 3.0,
        source: "memory: two thirds, what Metal lets a process wire on small Macs; bandwidth: Apple; storage: what explains the 5.1 to 6.3 \
                 tokens/s that TurboFieldfare measured on it",
    },
    Entry {
        name: "macbook-pro-m3-max",
        title: "MacBook Pro M3 Max, 48 GB",
        ram: 36.0,
        vram: None,
        bandwidth: 400.0,
        flash: 17.5,
        source: "memory: three quarters, what Metal lets a process wire; bandwidth: Apple (16 cores); storage: measured (flash-moe)",
    },
    Entry {
        name: "laptop-16gb",
        title: "laptop with 16 GB and an NVMe disk",
        ram: 12.0,
        vram: None,
        bandwidth: 89.6,
        flash: 3.4,
        source: "memory: three quarters; bandwidth: DDR5-5600, two channels; storage: PCIe 4 NVMe, measured with reads and a copy",
    },
    Entry {
        name: "desktop-32gb",
        title: "desktop with 32 GB and an NVMe disk",
        ram: 24.0,
        vram: None,
        bandwidth: 51.2,
        flash: 3.4,
        source: "memory: three quarters; bandwidth: DDR4-3200, two channels; storage: PCIe 4 NVMe, measured with reads and a copy",
    },
    Entry {
        name: "rtx-3060",
        title: "desktop with GeForce RTX 3060 12 GB and 32 GB",
        ram: 24.0,
        vram: Some((11.0, 360.0)),
        bandwidth: 51.2,
        flash: 3.4,
        source: "memory: 1 GB of the GPU's is the desktop's, three quarters of the system's; bandwidth: NVIDIA; DDR4-3200, two channels; storage: \
                 PCIe 4 NVMe, measured with reads and a copy",
    },
    Entry {
        name: "rtx-4090",
        title: "desktop with GeForce RTX 4090 24 GB and 64 GB",
        ram: 48.0,
        vram: Some((23.0, 1008.0)),
        bandwidth: 89.6,
        flash: 5.3,
        source: "memory: 1 GB of the GPU's is the desktop's, three quarters of the system's; bandwidth: NVIDIA; DDR5-5600, two channels; storage: \
                 PCIe 4 NVMe, measured",
    },
];
