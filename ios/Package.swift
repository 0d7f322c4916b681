// swift-tools-version: 6.0
//
// Hotset for Swift.
//
// - `HotsetFFI` is the C interface of the Rust library: an XCFramework on Apple's systems (`scripts/xcframework` makes it), a shared library on
//   Linux, where the tests run.
// - `HotsetBindings` is generated from that library and is not part of the API.
// - `Hotset` is the API.
// - `SampleLogic` is what the sample app does apart from showing it; it is here to be tested and is no product.
import PackageDescription

#if os(Linux)
let library = Context.environment["HOTSET_FFI_DIR"] ?? Context.packageDirectory + "/../target/debug"
let ffi = Target.systemLibrary(name: "HotsetFFI", path: "Sources/HotsetFFI")
let linkage = [LinkerSetting.unsafeFlags(["-L\(library)", "-Xlinker", "-rpath", "-Xlinker", library])]
#else
let ffi = Target.binaryTarget(name: "HotsetFFI", path: "HotsetFFI.xcframework")
// A static library does not say which frameworks it needs: these are what wgpu's Metal backend calls.
let linkage = ["CoreFoundation", "CoreGraphics", "Foundation", "Metal", "QuartzCore"].map { LinkerSetting.linkedFramework($0) }
#endif

let package = Package(
    name: "Hotset",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "Hotset", targets: ["Hotset"])],
    targets: [
        ffi,
        .target(name: "HotsetBindings", dependencies: ["HotsetFFI"], linkerSettings: linkage),
        .target(name: "Hotset", dependencies: ["HotsetBindings"]),
        .testTarget(name: "HotsetTests", dependencies: ["Hotset"]),
        .target(name: "SampleLogic", path: "Sample/Logic"),
        .testTarget(name: "SampleTests", dependencies: ["SampleLogic"], path: "Sample/Tests"),
    ]
)
