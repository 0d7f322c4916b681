// The shape of what only Xcode can build: the app's project and property lists, and the XCFramework.

import Foundation
import XCTest

final class LayoutTests: XCTestCase {
    private let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    private var sample: URL { package.appendingPathComponent("Sample") }

    func testTheProjectIsWhole() throws {
        let project = try plist(sample.appendingPathComponent("HotsetSample.xcodeproj/project.pbxproj"))
        let objects = try XCTUnwrap(project["objects"] as? [String: [String: Any]])
        // Every reference leads to an object, and every object is referred to.
        var referred: Set<String> = []
        func visit(_ value: Any) {
            if let text = value as? String, text.count == 24, text.allSatisfy(\.isHexDigit) { referred.insert(text) }
            if let list = value as? [Any] { list.forEach(visit) }
            if let table = value as? [String: Any] { table.values.forEach(visit) }
        }
        visit(project["rootObject"] as Any)
        objects.values.forEach(visit)
        XCTAssertEqual(referred, Set(objects.keys))

        // Every file and folder is there.
        for object in objects.values {
            let name = try XCTUnwrap(object["isa"] as? String)
            if name == "PBXFileSystemSynchronizedRootGroup" || name == "PBXFileReference" && object["sourceTree"] as? String == "<group>" {
                XCTAssertTrue(exists(try XCTUnwrap(object["path"] as? String)), "\(object)")
            }
            if name == "XCLocalSwiftPackageReference" {
                XCTAssertTrue(exists(try XCTUnwrap(object["relativePath"] as? String) + "/Package.swift"))
            }
            if let settings = object["buildSettings"] as? [String: String], settings["PRODUCT_NAME"] != nil {
                XCTAssertTrue(exists(try XCTUnwrap(settings["INFOPLIST_FILE"])))
                XCTAssertTrue(exists(try XCTUnwrap(settings["CODE_SIGN_ENTITLEMENTS"])))
            }
        }
    }

    func testTheAppAsksForMemoryAndSharesItsDocuments() throws {
        let entitlements = try plist(sample.appendingPathComponent("HotsetSample.entitlements"))
        for entitlement in ["increased-memory-limit", "extended-virtual-addressing"] {
            XCTAssertEqual(entitlements["com.apple.developer.kernel." + entitlement] as? Bool, true, entitlement)
        }
        let info = try plist(sample.appendingPathComponent("Info.plist"))
        XCTAssertEqual(info["UIFileSharingEnabled"] as? Bool, true)
        XCTAssertEqual(info["LSSupportsOpeningDocumentsInPlace"] as? Bool, true)
        let type = try XCTUnwrap((info["UTExportedTypeDeclarations"] as? [[String: Any]])?.first)
        let views = try String(contentsOf: sample.appendingPathComponent("App/ModelsView.swift"), encoding: .utf8)
        XCTAssertTrue(views.contains("\"\(try XCTUnwrap(type["UTTypeIdentifier"] as? String))\""), "the file picker asks for another type")
    }

    func testTheXCFrameworkIsWhole() throws {
        let path = try XCTUnwrap(ProcessInfo.processInfo.environment["HOTSET_TEST_XCFRAMEWORK"], "run the tests by .ci/swift")
        let framework = URL(fileURLWithPath: path)
        let info = try plist(framework.appendingPathComponent("Info.plist"))
        XCTAssertEqual(info["CFBundlePackageType"] as? String, "XFWK")
        XCTAssertEqual(info["XCFrameworkFormatVersion"] as? String, "1.0")
        let slices = try XCTUnwrap(info["AvailableLibraries"] as? [[String: Any]])
        XCTAssertEqual(
            slices.map { $0["LibraryIdentifier"] as? String }, ["ios-arm64", "ios-arm64_x86_64-simulator", "macos-arm64_x86_64"])
        XCTAssertEqual(slices.map { $0["SupportedPlatformVariant"] as? String }, [nil, "simulator", nil])
        for slice in slices {
            let folder = framework.appendingPathComponent(try XCTUnwrap(slice["LibraryIdentifier"] as? String))
            for key in ["LibraryPath", "BinaryPath", "HeadersPath"] {
                let file = folder.appendingPathComponent(try XCTUnwrap(slice[key] as? String))
                XCTAssertTrue(FileManager.default.fileExists(atPath: file.path), file.path)
            }
            let headers = folder.appendingPathComponent("Headers/HotsetFFI")
            XCTAssertEqual(
                try Data(contentsOf: headers.appendingPathComponent("HotsetFFI.h")),
                try Data(contentsOf: package.appendingPathComponent("Sources/HotsetFFI/HotsetFFI.h")))
            let map = try String(contentsOf: headers.appendingPathComponent("module.modulemap"), encoding: .utf8)
            XCTAssertTrue(map.contains("module HotsetFFI {") && map.contains("header \"HotsetFFI.h\""))
        }
    }

    private func exists(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: sample.appendingPathComponent(path).path)
    }

    private func plist(_ url: URL) throws -> [String: Any] {
        try XCTUnwrap(PropertyListSerialization.propertyList(from: Data(contentsOf: url), options: [], format: nil) as? [String: Any])
    }
}
